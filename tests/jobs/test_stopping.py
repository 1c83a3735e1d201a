"""What signals tell a long command."""

import os
import signal
import time

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
