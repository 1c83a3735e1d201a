"""The output file: whole rows, one writer, nothing lost."""

import json
import os
import subprocess
import sys
from random import Random

import numpy
import pytest

from llama_cli.engine.request import Sampling
from llama_cli.errors import DoesNotFit, OutputFailed, OutputRefused
from llama_cli.jobs.finished import Asked
from llama_cli.jobs.identity import identity_of, settle_identity
from llama_cli.jobs.ledger import Ledger
from llama_cli.jobs.order import InOrder
from llama_cli.jobs.results import Answer, RowWriter
from llama_cli.jobs.rows import BadRow, BatchRow, hash_of
from llama_cli.jobs.starts import GIVE_UP_AFTER, Starts
from llama_cli.parallel.ranks import RankEnded

NOTHING = Asked(numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.uint64))
WRITERS = [RowWriter("openai", "model", 7), RowWriter("simple", "model", 7)]


def good(writer, index, text="text", custom_id=None):
    job = BatchRow(index, custom_id or f"id {index}", 7, "prompt", Sampling())
    return writer.answer(job, [Answer(text, "stop", 3, None)], 2)


def bad(writer, index):
    return writer.error(BadRow(index, f"id {index}", 7, "invalid_request", 'with "quotes" and \\ and }}'))


@pytest.mark.parametrize("writer", WRITERS, ids=["openai", "simple"])
def test_rows_are_found_again(tmp_path, writer):
    with Ledger(tmp_path / "out") as ledger:
        for row in (good(writer, 0), bad(writer, 1), good(writer, 2, custom_id='é "x"\u2028')):
            ledger.append(row)
    with Ledger(tmp_path / "out") as ledger:
        assert [(row.custom_id, row.code) for row in ledger.rows()] == [
            ("id 0", None), ("id 1", "invalid_request"), ('é "x"\u2028', None),
        ]  # fmt: skip
        finished = ledger.finished()
    names = ["id 0", "id 1", 'é "x"\u2028', "id 3"]
    asked = Asked(*(numpy.array(values, numpy.uint64) for values in ([hash_of(name) for name in names], [7] * 4)))
    assert finished.compare(asked, retry_errors=False).done.tolist() == [True, True, True, False]
    assert finished.compare(asked, retry_errors=False).errors == {"invalid_request": 1}
    assert finished.compare(asked, retry_errors=True).done.tolist() == [True, False, True, False]


def test_text_that_looks_like_an_error_is_none(tmp_path):
    text = '", "error": {"code": "x", "message": "y"}}'
    with Ledger(tmp_path / "out") as ledger:
        for writer in WRITERS:
            ledger.append(good(writer, 0, text))
        assert [row.code for row in ledger.rows()] == [None, None]


def test_a_row_torn_at_any_byte_is_moved_aside(tmp_path):
    first, second = good(WRITERS[0], 0), good(WRITERS[0], 1)
    for cut in range(1, len(second)):
        path = tmp_path / f"{cut}"
        path.write_bytes(first + second[:cut])
        with Ledger(path) as ledger:
            assert ledger.torn is not None
            assert ledger.torn.read_bytes() == second[:cut]
            ledger.append(second)
        assert path.read_bytes() == first + second


def test_a_whole_file_is_left_alone(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(good(WRITERS[0], 0))
    with Ledger(path) as ledger:
        assert ledger.torn is None
    assert os.listdir(tmp_path) == ["out"]


def test_one_writer(tmp_path):
    with Ledger(tmp_path / "out"), pytest.raises(OutputRefused, match="is being written by another run"):
        Ledger(tmp_path / "out")
    with Ledger(tmp_path / "out"):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputFailed, match="cannot write"):
        Ledger(tmp_path / "absent" / "out")


@pytest.mark.parametrize("line", [b"text\n", b'{"a": 1}\n', b"[]\n", b"\n"])
def test_other_files_are_refused(tmp_path, line):
    path = tmp_path / "out"
    path.write_bytes(good(WRITERS[0], 0) + line)
    with Ledger(path) as ledger, pytest.raises(OutputRefused, match="that no batch wrote"):
        ledger.finished()
    assert path.read_bytes().endswith(line)


def test_a_full_disk_leaves_whole_rows(tmp_path):
    """RLIMIT_FSIZE stands for the disk; it needs a process of its own."""
    code = """
import resource, signal, sys
from pathlib import Path
from llama_cli.errors import OutputFailed
from llama_cli.jobs.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with Ledger(Path(sys.argv[1])) as ledger:
    try:
        for _ in range(20):
            ledger.append(b'{"id": "a", ' + b" " * 77 + b'"index": 0}\\n')
    except OutputFailed as error:
        print(error.message)
"""
    path = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "what is in it is whole" in done.stdout
    assert path.stat().st_size == 900 or path.read_bytes().endswith(b"\n")
    assert len(path.read_bytes()) % len(path.read_bytes().split(b"\n")[0] + b"\n") == 0


def test_compacting_keeps_successes_in_order(tmp_path):
    writer = WRITERS[0]
    with Ledger(tmp_path / "out") as ledger:
        for row in (good(writer, 2), bad(writer, 0), bad(writer, 1), good(writer, 0)):
            ledger.append(row)
        ledger.compact(NOTHING)
    assert (tmp_path / "out").read_bytes() == good(writer, 0) + bad(writer, 1) + good(writer, 2)


def test_rows_come_back_into_order():
    written = []
    order = InOrder(written.append, ordered=True)
    tickets = [order.ticket() for _ in range(4)]
    for ticket in (2, 0, 3, 1):
        order.put(tickets[ticket], bytes([ticket]))
    assert written == [b"\0", b"\1", b"\2", b"\3"]
    unordered = InOrder(written.append, ordered=False)
    unordered.put(unordered.ticket() + 5, b"x")
    assert written[-1] == b"x"


def test_rows_have_openais_names():
    row = json.loads(good(WRITERS[0], 3))
    assert list(row) == ["id", "custom_id", "index", "response", "error"]
    assert row["response"]["status_code"] == 200
    body = row["response"]["body"]
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "text", "finish_reason": "stop", "logprobs": None}]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert json.loads(bad(WRITERS[0], 3))["error"]["code"] == "invalid_request"
    assert json.loads(good(WRITERS[1], 3)) == {
        "id": "id 3", "index": 3, "row_hash": "0000000000000007", "prompt": "prompt", "text": "text",
        "finish_reason": "stop", "usage": body["usage"],
    }  # fmt: skip


IDENTITY = {
    "model": "a",
    "sampling": {"top_p": 1, "max_tokens": 8},
    "created": 1,
    "input": {"size": 1},
    "rows": 4,
    "run_seed": 5,
}


def settle(output, identity, *, has_rows=True, has_unknown=False, force=False):
    return settle_identity(output, identity, has_rows=has_rows, has_unknown=has_unknown, force=force)


def test_a_resumed_run_must_be_the_same(tmp_path):
    output = tmp_path / "out"
    assert settle(output, IDENTITY, has_rows=False) == IDENTITY
    later = {**IDENTITY, "created": 2, "run_seed": None}
    assert settle(output, later) == IDENTITY
    with pytest.raises(OutputRefused, match=r"with other settings: model a, now b, seed 5, now 6$"):
        settle(output, {**later, "model": "b", "run_seed": 6})
    assert settle(output, {**later, "model": "b"}, force=True) == IDENTITY
    with pytest.raises(OutputRefused, match=r"max_tokens 8, now 9$"):
        settle(output, {**later, "sampling": {**IDENTITY["sampling"], "max_tokens": 9}})
    assert settle(output, {**later, "rope_scale_factor": 8}) == IDENTITY  # an earlier version did not write that down
    more = {**IDENTITY, "rows": 9}  # the input has grown
    assert settle(output, {**later, "rows": 9}) == identity_of(output) == more
    assert settle(output, {**later, "rows": 4}, force=True) == identity_of(output) == IDENTITY
    (tmp_path / "out.run.json").unlink()
    assert identity_of(output) is None
    with pytest.raises(OutputRefused, match=r"no out\.run\.json says which run"):
        settle(output, IDENTITY)


def test_rows_of_an_earlier_version_go_with_their_input_alone(tmp_path):
    output = tmp_path / "out"
    settle(output, IDENTITY, has_rows=False)
    assert settle(output, IDENTITY, has_unknown=True) == IDENTITY
    for other in ({"size": 2}, None):
        with pytest.raises(OutputRefused, match="begun by an earlier version with another input"):
            settle(output, {**IDENTITY, "input": other}, has_unknown=True)
        assert settle(output, {**IDENTITY, "input": other}) == IDENTITY
        assert settle(output, {**IDENTITY, "input": other}, has_unknown=True, force=True) == IDENTITY


def _settled_or_refused(output, identity):
    try:
        return settle(output, identity)
    except OutputRefused as error:
        return error.message


@pytest.fixture(params=[300, pytest.param(2000, marks=pytest.mark.slow)])
def n_mutations(request):
    return request.param


@pytest.mark.promise("P23")
def test_who_began_an_output_is_never_believed_of_a_damaged_file(tmp_path, n_mutations, record_property):
    """Another seed or time in it went into the rows that were still to come."""
    record_property("cases", n_mutations)
    output, random = tmp_path / "out", Random(3)
    settle(output, IDENTITY, has_rows=False)
    path = tmp_path / "out.run.json"
    whole = path.read_bytes()
    later = {**IDENTITY, "created": 2, "run_seed": None}
    for _ in range(n_mutations):
        data = bytearray(whole)
        match random.randrange(3):
            case 0:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            case 1:
                place = random.randrange(len(data))
                data[place : place + random.randrange(1, 30)] = random.randbytes(random.randrange(4))
            case 2:
                place = random.randrange(len(data))
                data[place:place] = random.choice([b" ", b"\n", b"0", b'"x": 1,', b"9"])
        path.write_bytes(data)
        assert identity_of(output) in (None, IDENTITY)
        found = _settled_or_refused(output, later)
        assert found == IDENTITY or "is damaged" in found


def test_rows_that_ran_when_a_process_died(tmp_path):
    output = tmp_path / "out"
    for death in range(GIVE_UP_AFTER):
        starts = Starts(output)
        assert starts.is_suspect("killer") == (death > 0)
        assert not starts.is_given_up("killer")
        starts.begin("innocent")
        starts.end("innocent")
        starts.begin("killer")
        if death == 0:
            starts.begin("neighbour")
        os.close(starts._fd)
    with (tmp_path / "out.started").open("ab") as file:
        file.write(b'+"torn')
    starts = Starts(output)
    assert starts.is_given_up("killer")
    assert starts.is_suspect("neighbour")
    assert not starts.is_given_up("neighbour")
    assert not starts.is_suspect("innocent")
    with starts:
        pass
    assert not (tmp_path / "out.started").exists()


@pytest.mark.parametrize(
    ("error", "are_left"),
    [(IndexError(), True), (DoesNotFit("x"), True), (RankEnded("x", exit_code=3), True), (MemoryError(), True),
     (KeyboardInterrupt(), False), (OutputFailed("x"), False), (OutputRefused("x"), False)],
)  # fmt: skip
def test_an_error_that_a_row_may_have_caused_leaves_suspects(tmp_path, error, are_left):
    starts = Starts(tmp_path / "out")
    starts.begin(7)
    starts.__exit__(type(error), error, None)
    assert Starts.are_left(tmp_path / "out") == are_left
    assert Starts(tmp_path / "out").is_suspect(7) == are_left
