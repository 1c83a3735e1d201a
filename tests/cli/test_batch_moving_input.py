"""An input that another program changes while a batch reads it: the run says so, and no row is answered wrongly."""

import json
import os

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.jobs.ledger import Ledger

pytestmark = pytest.mark.promise("P21")

ROWS = [json.dumps({"id": f"r{number}", "prompt": f"row {number}"}) + "\n" for number in range(40)]
FLAGS = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "--seed", "1", "-n", "2", "-b", "1"]


def lines(path, rows):
    with path.open("r+") as file:
        file.writelines(rows)
        file.truncate()


def append(path, row):
    with path.open("a") as file:
        file.write(row)


def put_back(path, row):
    before = path.stat()
    with path.open("r+") as file:
        file.write(row)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path, rows):
    path.with_name("other").write_text("".join(rows))
    path.with_name("other").replace(path)


CHANGES = {
    "emptied": lambda path: os.truncate(path, 0),
    "cut short": lambda path: os.truncate(path, len("".join(ROWS[:20]))),
    "appended to": lambda path: append(path, '{"id": "new", "prompt": "x"}\n'),
    "reordered": lambda path: lines(path, ROWS[::-1]),
    "a row put on top": lambda path: lines(path, ['{"id": "new", "prompt": "x"}\n', *ROWS]),
    "a row taken out": lambda path: lines(path, ROWS[:30] + ROWS[31:]),
    "a row edited": lambda path: lines(path, [*ROWS[:30], ROWS[30].replace("row 30", "ROW 30"), *ROWS[31:]]),
    "replaced": lambda path: replace(path, ROWS[::-1]),
    "removed": lambda path: path.unlink(),
    "a row that was read, and the time put back": lambda path: put_back(path, ROWS[0].replace("row 0", "row X")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_said(tmp_path, monkeypatch, capsys, change):
    """Rows were answered twice or not at all, and the run ended with exit code 0."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    # Longer than what is read at once.
    padding = '{"id": "long", "prompt": [1], "metadata": {"x": "%s"}}\n' % ("y" * (1 << 17))
    source.write_text("".join(ROWS[:3]) + padding + "".join(ROWS[3:]))
    real = Ledger.append

    def changed(ledger, row):
        if json.loads(row)["index"] == 1:
            change(source)
        real(ledger, row)

    monkeypatch.setattr(Ledger, "append", changed)
    code = main(["batch", str(source), "-o", str(out), *FLAGS])
    assert code == 5
    assert "while it was read" in capsys.readouterr().err
    written = [json.loads(line) for line in out.read_text().splitlines()]
    ids = [row["custom_id"] for row in written]
    assert len(set(ids)) == len(ids)
    assert "new" not in ids
    assert all(row["error"] is None for row in written)


def test_an_input_that_stays_is_no_trouble(tmp_path, monkeypatch):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(ROWS[:5]))
    assert main(["batch", str(source), "-o", str(tmp_path / "out.jsonl"), *FLAGS]) == 0
    with source.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["batch", "-", "-o", str(tmp_path / "again.jsonl"), *FLAGS]) == 0


def test_another_mode_or_name_of_an_input_is_no_change(tmp_path, monkeypatch):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(ROWS[:5]))
    real = Ledger.append

    def touch(ledger, row):
        source.chmod(0o600)
        if json.loads(row)["index"] == 1:
            (tmp_path / "second").hardlink_to(source)
        real(ledger, row)

    monkeypatch.setattr(Ledger, "append", touch)
    assert main(["batch", str(source), "-o", str(tmp_path / "out.jsonl"), *FLAGS]) == 0
