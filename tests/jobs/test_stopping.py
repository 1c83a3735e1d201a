"""What signals tell a long command."""

import json
import os
import signal
import time
from itertools import count

import pytest

from llama_cli.cli.app import main
from llama_cli.jobs.stopping import Stopping


def test_a_suspended_process_knows_since_when_it_is_awake():
    before, began = signal.getsignal(signal.SIGCONT), time.monotonic()
    with Stopping() as stopping:
        assert stopping.awake_since < began
        os.kill(os.getpid(), signal.SIGCONT)
        assert began <= stopping.awake_since <= time.monotonic()
        assert not stopping.requested
    assert signal.getsignal(signal.SIGCONT) is before


def test_time_in_which_a_batch_was_suspended_is_not_its_rows(tmp_path, monkeypatch):
    """A row that was running when the machine slept was given up as too slow."""
    real, slept = time.monotonic, 0.0

    def wake(stopping, number=None, frame=None):
        stopping.awake_since = time.monotonic()

    def fall_asleep(stopping):
        nonlocal slept
        if not slept:  # in the middle of the first row: an hour passes
            slept = 3600.0
            wake(stopping)
        return False

    monkeypatch.setattr(time, "monotonic", lambda: real() + slept)
    monkeypatch.setattr(Stopping, "out_of_time", property(fall_asleep))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert main(["batch", str(source), "-o", str(out), "-n", "8", "-q", "--row-timeout", "600"]) == 0
    assert out.read_bytes().count(b'"error": null') == 2


def test_rows_that_wait_for_one_before_them_are_not_counted(tmp_path, monkeypatch, capfd):
    """They are lost with it where the time is over: it was told of more rows than the output has."""
    calls = count()
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "long", "max_tokens": 200, "ignore_eos": True}, *[{"prompt": "a", "max_tokens": 1}] * 6]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["batch", str(source), "-o", str(out), "-b", "3"]
    with monkeypatch.context() as late:
        late.setattr(Stopping, "out_of_time", property(lambda stopping: next(calls) > 25))
        assert main(arguments) == 0
    assert out.read_bytes() == b""
    assert "0 rows: 0 ok, 0 errors" in capfd.readouterr().err
    assert main(arguments) == 0
    assert "7 rows: 7 ok, 0 errors" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["batch", "in.jsonl"], ["score", "--rows", "in.jsonl"]])
@pytest.mark.parametrize(("output", "says"), [("out.jsonl", True), ("-", False)])
def test_an_interrupt_that_ends_it_at_once_says_how_to_go_on(command, output, says, tmp_path, monkeypatch, capfd):
    """The first Ctrl-C said it; the second one ended without a word."""

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"prompt": "one", "text": "one"}\n')
    monkeypatch.setattr("llama_cli.jobs.run.load_model", interrupted)
    assert main([*command, "-o", output]) == 130
    assert ("run the same command again to go on" in capfd.readouterr().err) == says


def test_one_of_a_thing_is_told_as_one(tmp_path, capfd):
    (tmp_path / "in.jsonl").write_text('{"prompt": "one", "max_tokens": 1, "ignore_eos": true}\n')
    assert main(["batch", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert "llama-cli: 1 row: 1 ok, 0 errors, 1 token, " in capfd.readouterr().err
    assert main(["merge", str(tmp_path / "out.jsonl"), "-o", str(tmp_path / "all.jsonl")]) == 0
    assert "1 row, 0 errors, 0 duplicates left out" in capfd.readouterr().err
    assert main(["tokenize", "a", "-q"]) == 0
    assert capfd.readouterr().out.endswith("1 token, 1 character, 1 byte\n")
