"""An output that another program touches while a run writes it: the run says so, and harms nothing more."""

import os
import shutil

import numpy
import pytest

from llama_cli.errors import InputRejected, OutputFailed, OutputRefused
from llama_cli.files import write
from llama_cli.jobs import ledger as ledger_module
from llama_cli.jobs import merge, written
from llama_cli.jobs.finished import Asked
from llama_cli.jobs.ledger import Ledger
from llama_cli.jobs.merge import merge_parts

pytestmark = pytest.mark.promise("P21")

NOTHING = Asked(numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.uint64))
ROWS = [b'{"id": "a%d", "index": %d, "text": "x"}\n' % (number, number) for number in range(4)]

CHANGED = r"while this run wrote to it|was changed by another program"


def rewrite(path, data):
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(data)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def replaced_by(path, make):
    path.rename(path.with_name("before"))
    make()


CHANGES = {
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("other")),
    "its folder removed": lambda path: shutil.rmtree(path.parent),
    "its folder renamed": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    "emptied": lambda path: os.truncate(path, 0),
    "cut short": lambda path: os.truncate(path, len(ROWS[0]) + 5),
    "made longer": lambda path: os.truncate(path, 10_000),
    "appended to": lambda path: append(path, b"a line of somebody else's\n"),
    "replaced by a copy": lambda path: replaced_by(path, lambda: path.write_bytes(ROWS[0] + ROWS[1])),
    "replaced by a link to a copy": lambda path: replaced_by(path, lambda: path.symlink_to("copy")),
    "replaced by a folder": lambda path: replaced_by(path, path.mkdir),
    "replaced by a pipe": lambda path: replaced_by(path, lambda: os.mkfifo(path)),
}
UNSEEN = {  # by a look at its name and size
    "another row in place": lambda path: rewrite(path, ROWS[0] + ROWS[3]),
    "one byte": lambda path: rewrite(path, ROWS[0] + ROWS[1].replace(b"x", b"y")),
}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "out"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_seen_at_the_next_row(path, change):
    ledger = Ledger(path)
    ledger.append(ROWS[0])
    ledger.append(ROWS[1])
    change(path)
    with pytest.raises(OutputFailed, match=CHANGED):
        ledger.append(ROWS[2])
    os.close(ledger._fd)


@pytest.mark.parametrize("change", [*CHANGES.values(), *UNSEEN.values()], ids=[*CHANGES, *UNSEEN])
def test_it_is_seen_at_the_end(path, change):
    """The run said that all rows were there, and exit code 0."""

    def run():
        with Ledger(path) as ledger:
            ledger.append(ROWS[0])
            ledger.append(ROWS[1])
            change(path)

    with pytest.raises(OutputFailed, match=CHANGED):
        run()


def test_rows_of_an_earlier_run_are_not_read_again(path):
    """Only what this run wrote is compared at the end: a resumed run of a million rows reads them once."""
    with Ledger(path) as ledger:
        ledger.append(ROWS[0])
    with Ledger(path) as ledger:
        ledger.append(ROWS[1])
    assert path.read_bytes() == ROWS[0] + ROWS[1]


def test_a_full_disk_adds_no_zeros(path, monkeypatch):
    """The file was made as long as it was believed to be, when another program had cut it short."""
    ledger = Ledger(path)
    ledger.append(ROWS[0])
    ledger.append(ROWS[1])

    def write(handle, data):
        os.truncate(path, len(ROWS[0]))  # after the look, before the write
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputFailed, match=r"no space left on device$"):
        ledger.append(ROWS[2])
    os.close(ledger._fd)
    assert path.read_bytes() == ROWS[0]


def test_a_disk_that_fails_twice(path, monkeypatch):
    ledger = Ledger(path)

    def fails(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(OutputFailed, match="input/output error"):
        ledger.append(ROWS[0])
    os.close(ledger._fd)


@pytest.mark.parametrize("row", [b'{"id": "a"}\n', b'{"id": "a", "index": "x"}\n', b'{"id": "a", "index": null}\n'])
def test_rows_without_a_place_are_refused_before_the_run(path, row):
    """It was an internal error after the run, when the file was to be put into order."""
    path.write_bytes(ROWS[0] + row)
    with Ledger(path) as ledger, pytest.raises(OutputRefused, match="that no batch wrote"):
        ledger.finished()


@pytest.mark.parametrize("reader", ["ledger", "merge"])
def test_a_file_without_line_ends_is_not_held_whole(path, monkeypatch, reader):
    monkeypatch.setattr(written, "MOST_BYTES", 1000)
    path.write_bytes(ROWS[0] + b"x" * 5000 + b"\n")
    if reader == "merge":
        with pytest.raises(InputRejected, match=f"holds a line at byte {len(ROWS[0])} that no batch wrote"):
            merge_parts([path], path.with_name("merged"))
    else:
        with Ledger(path) as ledger, pytest.raises(OutputRefused, match=f"holds a line at byte {len(ROWS[0])} that no"):
            list(ledger.rows())


def test_compacting_through_a_link_keeps_the_link(path):
    link = path.with_name("link")
    path.touch()
    link.symlink_to(path)
    with Ledger(link) as ledger:
        ledger.append(ROWS[1])
        ledger.append(ROWS[0])
        ledger.compact(NOTHING)
    assert link.is_symlink()
    assert path.read_bytes() == ROWS[0] + ROWS[1]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_torn_row_goes_into_a_file_of_its_own(path, monkeypatch, kind):
    path.write_bytes(ROWS[0] + ROWS[1][:10])
    victim, planted = path.with_name("victim"), path.with_name("out.torn-7")
    victim.write_bytes(b"mine")
    planted.symlink_to(victim) if kind == "link" else planted.write_bytes(b"older")
    monkeypatch.setattr("time.time_ns", lambda: 7)
    with pytest.raises((OutputRefused, OutputFailed)):
        Ledger(path)
    assert victim.read_bytes() == b"mine"
    assert path.read_bytes() == ROWS[0] + ROWS[1][:10]


def put_back(path, data):
    """Other bytes in a file of the same size, and the time of its last change as it was."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("data", [ROWS[1] + ROWS[0], ROWS[0].replace(b"x", b"y"), b"\0" * 20, ROWS[0][:9] + b"9"])
@pytest.mark.parametrize("end", ["append", "compact"])
def test_a_change_of_what_an_earlier_run_wrote_is_seen(path, data, end):
    """Nothing looked at rows that were there before: such a run ended with exit code 0."""
    path.write_bytes(ROWS[0] + ROWS[1])

    def run():
        with Ledger(path) as ledger:
            ledger.finished()
            put_back(path, data)
            if end == "append":
                ledger.append(ROWS[2])
            else:
                ledger.compact(NOTHING)

    with pytest.raises(OutputFailed, match="was changed by another program"):
        run()


def test_another_mode_or_name_of_an_output_is_no_change(path):
    path.write_bytes(ROWS[0])
    with Ledger(path) as ledger:
        ledger.finished()
        path.chmod(0o600)
        path.with_name("second").hardlink_to(path)
        ledger.append(ROWS[1])
    assert path.read_bytes() == ROWS[0] + ROWS[1]


def test_an_output_that_another_run_takes_while_it_is_put_into_order(path, monkeypatch):
    """The lock on the new file was asked for, and its answer was not looked at."""
    path.write_bytes(ROWS[0] + ROWS[0])
    others = []

    def replace_first(where, parts):
        write.replace_file(where, parts)
        others.append(Ledger(where))

    monkeypatch.setattr(ledger_module, "replace_file", replace_first)
    ledger = Ledger(path)
    with pytest.raises(OutputRefused, match="is being written by another run"):
        ledger.compact(NOTHING)
    for each in (ledger, *others):
        os.close(each._fd)


@pytest.mark.parametrize("data", [b"\0" * 8, b"\x01", b"\xff\xfe", b"\x1b[2J"])
def test_a_row_with_what_no_row_has_is_not_taken_for_done(path, data):
    """A block of zeros in the middle of a row was an answered row."""
    row = ROWS[1].replace(b'"x"', b'"xxxxxxxxxxxxxxxx"')
    place = row.index(b"xxx") + 3
    path.write_bytes(ROWS[0] + row[:place] + data + row[place + len(data) :] + ROWS[2])
    with Ledger(path) as ledger, pytest.raises(OutputRefused, match=f"line at byte {len(ROWS[0])} that no batch wrote"):
        ledger.finished()


@pytest.mark.parametrize(
    "change",
    [lambda path: os.truncate(path, 10), lambda path: append(path, ROWS[3]), lambda path: put_back(path, ROWS[1])],
    ids=["cut short", "appended to", "another row in place"],
)
def test_a_part_that_changes_while_it_is_merged(path, change, monkeypatch):
    """Its lines were taken from where they had been, whatever stood there now."""
    path.write_bytes(ROWS[0] + ROWS[1])
    out = path.with_name("whole")
    real = merge._refuse_several_inputs

    def changed(*arguments):
        change(path)
        real(*arguments)

    monkeypatch.setattr(merge, "_refuse_several_inputs", changed)
    with pytest.raises(InputRejected, match="changed while it was read"):
        merge_parts([path], out)
    assert os.listdir(path.parent) == ["out"]
