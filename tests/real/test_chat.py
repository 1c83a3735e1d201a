"""Conversations with SmolLM2: on a terminal, line by line, kept and gone on with."""

import json
import signal
import time

import pytest
from helpers.models import empty_home
from helpers.screen import CTRL_C, CTRL_D, Terminal
from real.shell import answers, environment, rows_of, run, start

pytestmark = pytest.mark.real
CHATML = ["--chat-template", "chatml", "-t", "0", "-n", "12"]


@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8"])
def test_on_a_terminal(name, models, tmp_path):
    """Two turns, one taken back and one ended by Ctrl-C, then the end; the session has what was said."""
    talk, home = tmp_path / "talk.jsonl", empty_home(tmp_path)
    arguments = ["chat", "-m", str(models[name]), *CHATML[:4], "-n", "300", "--session", str(talk)]
    with Terminal(arguments, env=environment(**home)) as terminal:
        terminal.wait_for_prompt(1, seconds=120)
        terminal.type("What is the capital of France?")
        terminal.wait_for_prompt(2, seconds=120)
        assert any("Paris" in line for line in terminal.text())
        terminal.type("/undo")
        terminal.wait_for_prompt(3)
        terminal.type("Tell me a very long story about the sea.")
        terminal.wait(lambda: "".join(terminal.text()).partition("about the sea.")[2].strip(), 120)
        terminal.send(CTRL_C)
        terminal.wait_for_prompt(4)
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0
    (branch, *_) = rows_of(talk.read_text())[-1:]
    assert [message["role"] for message in branch["messages"]][-2:] == ["user", "assistant"]
    assert "France" not in json.dumps(branch["messages"])


def test_a_session_goes_on(smollm2, tmp_path):
    """One start for each message says what one start for all says, in float32."""
    said, flags = ["My name is Tim.", "What is my name?"], ["-m", smollm2, *CHATML, "--dtype", "fp32", "-q"]
    together = answers("chat", "--stdin", *flags, stdin="".join(line + "\n" for line in said))
    talk = tmp_path / "talk.jsonl"
    apart = [
        answers("chat", line, *flags, "--session", talk, *more)[0]
        for line, more in zip(said, ([], ["--continue"]), strict=True)
    ]
    assert [one["token_ids"] for one in apart] == [one["token_ids"] for one in together]
    assert apart[1]["prompt_token_ids"] == together[1]["prompt_token_ids"]


@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8"])
def test_a_session_is_a_row_of_a_batch(name, models, tmp_path):
    talk, flags = tmp_path / "talk.jsonl", ["-m", models[name], "--chat-template", "chatml", "-n", "6", "-q"]
    run("chat", "Hello", *flags, "--session", talk, "--seed", "1")
    run("batch", talk, "-o", tmp_path / "out.jsonl", *flags, "--seed", "1")
    (row,) = rows_of((tmp_path / "out.jsonl").read_text())
    assert row["error"] is None


def test_a_kept_cache_is_used_and_changes_nothing(smollm2, tmp_path):
    """In float32 the answer is the one without it."""
    flags = ["-m", smollm2, *CHATML, "--dtype", "fp32", "-q"]
    said = []
    for kept in ([], ["--save-cache"]):
        talk = tmp_path / f"talk{len(kept)}.jsonl"
        run("chat", "Tell me about the sea.", *flags, "--session", talk, *kept)
        said.append(answers("chat", "And about ships.", *flags, "--session", talk, "--continue", *kept)[0])
    plain, cached = said
    assert plain["token_ids"] == cached["token_ids"]
    assert plain["timings"]["cached_tokens"] < cached["timings"]["cached_tokens"]


def test_a_killed_chat_has_its_turns(smollm2, tmp_path):
    """kill -9 in the second answer: the first turn is there, whole."""
    talk = tmp_path / "talk.jsonl"
    process = start("chat", "--stdin", "-m", smollm2, "-n", "2000", "--ignore-eos", "-t", "0", "--session", talk,
                    "--chat-template", "chatml", "-c", "64", stdin=-1)  # fmt: skip
    process.stdin.write(b"Hello\nTell me a long story\n")
    process.stdin.flush()
    while process.poll() is None and not talk.exists():
        time.sleep(0.01)  # to leave the processor to it
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (branch,) = rows_of(talk.read_text())
    assert [message["role"] for message in branch["messages"]][:2] == ["user", "assistant"]
