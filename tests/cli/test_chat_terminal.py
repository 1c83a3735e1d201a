"""`llama-cli chat` as a person sees it: in a real pty, on a screen."""

import base64
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
from helpers import commands
from helpers.models import DATA, empty_home
from helpers.screen import ALT_ENTER, CTRL_C, CTRL_D, CTRL_Z, ENTER, UP, Terminal

TINY = str(DATA / "tiny/bpe1024")


@pytest.fixture(name="home")
def _home(tmp_path):
    """Where the history goes."""
    return empty_home(tmp_path)


def history_file(home):
    return Path(home["XDG_STATE_HOME"]) / "llama-cli" / "chat_history"


def conversation_of(path):
    return json.loads(path.read_text().splitlines()[-1])["messages"]


def said(path, role):
    return [message["content"] for message in conversation_of(path) if message["role"] == role]


def test_the_screen_holds_what_was_said_and_nothing_else(home):
    """Two turns on the toy, line for line, as one that is not on a terminal gives them."""
    questions, flags = ["ROMEO:", "What news"], ["-n", "40", "-t", "0"]
    piped = commands.run("chat", *flags, "--stdin", "--json", "-q", stdin="\n".join(questions).encode())
    expected = []
    for question, row in zip(questions, piped.out.splitlines(), strict=True):
        expected += [f">>> {question}", *json.loads(row)["text"].split("\n")]
        expected += ["stopped after 40 tokens (max_tokens); /continue goes on", ""]
    with Terminal(["chat", "-q", *flags], env=home) as terminal:
        terminal.wait_for_prompt(1)
        for place, question in enumerate(questions):
            terminal.type(question)
            terminal.wait_for_prompt(place + 2)
        status = [line for line in terminal.shown() if line.endswith("tokens/s")]
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0
        shown = terminal.text()
    while shown[-1] == "":
        shown.pop()
    assert shown == [*[line.rstrip() for line in expected], ">>>"]
    assert len(status) == 1
    assert re.match(r"\d+ of 256 tokens · [\d.]+ tokens/s", status[0])


@pytest.mark.parametrize("columns", [30, 80])
def test_notes_are_broken_at_words(home, columns):
    """They were left to the terminal, which cuts words in two."""
    with Terminal(["chat", "-m", TINY, "-n", "2"], columns=columns, lines=60, env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("/load " + "a b " * 8)
        terminal.wait_for_prompt(2)
        shown = " ".join(line for line in terminal.text() if line)
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0
    for whole in (
        "8,192 tokens of context /help lists the commands, Ctrl-D leaves kept until your next conversation with it: "
        "chat --continue goes on; --no-session keeps nothing >>>",
        "error: one file is meant, not 16: a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b hint:",
    ):
        assert whole in shown


def test_a_conversation_with_everything(home, tmp_path):
    """Five turns with edit, undo, retry, Ctrl-C in an answer, a resize, a paste of 200 lines and wide characters."""
    kept = tmp_path / "s.jsonl"
    flags = ["-n", "12", "--seed", "1", "--session", str(kept)]
    with Terminal(["chat", "-m", TINY, *flags], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("Hello")
        terminal.wait_for_prompt(2)
        first = said(kept, "assistant")
        terminal.type("/retry")
        terminal.wait_for_prompt(3)
        assert said(kept, "user") == ["Hello"]
        assert len(said(kept, "assistant")) == 1
        assert said(kept, "assistant") != first

        terminal.type("漢字 and 👋 é")  # 2
        terminal.wait_for_prompt(4)
        assert said(kept, "user")[-1] == "漢字 and 👋 é"
        # pyte gives a wide character two cells, the second of them empty
        assert ">>> 漢字 and 👋 é" in [line.replace("\0", "") for line in terminal.text()]

        terminal.type("/edit")
        terminal.wait_for("/edit")
        terminal.wait(lambda: terminal.n_prompts() == 5 and "👋" in terminal.shown()[terminal.screen.cursor.y])
        terminal.send("!" + ENTER)
        terminal.wait_for_prompt(6)
        assert said(kept, "user") == ["Hello", "漢字 and 👋 é!"]

        terminal.type("third")
        terminal.wait_for_prompt(7)
        terminal.type("/undo")
        terminal.wait_for_prompt(8)
        terminal.wait_for("took back: third")
        assert said(kept, "user") == ["Hello", "漢字 and 👋 é!"]

        pasted = "\n".join(f"line {number} of 200" for number in range(1, 201))
        terminal.paste(pasted)  # 3
        terminal.wait_for("line 200 of 200")
        terminal.send(ENTER)
        terminal.wait(lambda: kept.exists() and len(said(kept, "user")) == 3)
        assert said(kept, "user")[-1] == pasted

        terminal.resize(50, 20)
        terminal.wait(terminal.is_ready)
        terminal.type("/set ignore_eos true")
        terminal.type("/set max_tokens 1500")
        terminal.type("/fork long")
        terminal.wait_for("now in long")
        terminal.wait(terminal.is_ready)
        before = len(terminal.sent)
        terminal.type("go on and on")  # 4
        terminal.wait(lambda: len(terminal.sent) > before + 1000)
        terminal.send("typed early")  # unseen within the answer, and there behind it
        terminal.wait(lambda: any(line.startswith(">>> typed early") for line in terminal.shown()))
        assert terminal.sent.count(b"typed early") == 1
        assert len(conversation_of(kept)[-1]["token_ids"]) == 1500
        terminal.send(CTRL_C)

        before = len(terminal.sent)
        terminal.type("and on")  # 5
        terminal.wait(lambda: len(terminal.sent) > before + 1000)
        terminal.send(CTRL_C)
        terminal.wait_for("stopped; what was said is kept")
        terminal.wait(terminal.is_ready)
        assert said(kept, "user")[-1] == "and on"
        assert 10 < len(conversation_of(kept)[-1]["token_ids"]) < 1500
        terminal.type("/exit")
        assert terminal.wait_for_end() == 0
    assert_only_known_sequences(terminal.sent)
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["main", "long"]
    assert len(rows[0]["messages"]) == 6
    assert len(rows[1]["messages"]) == 10
    remembered = history_file(home).read_text()
    assert "+line 200 of 200\n" in remembered
    assert "+漢字 and 👋 é!\n" in remembered


def assert_only_known_sequences(sent):
    """What the program sent is text and sequences of cursor, colour, clearing and paste modes: nothing else."""
    text = sent.decode()
    rest = re.sub(r"\x1b\[[?0-9;]*[ABCDHJKhlmn]", "", text)
    # \b is the line editor's: its cursor goes one to the left by it, and no text here holds one.
    stray = set(re.findall(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", rest))
    assert not stray, stray
    assert set(re.findall(r"\x1b\[\?(\d+)[hl]", text)) <= {"1", "7", "12", "25", "2004"}


def test_history_is_private_and_comes_back(home):
    with Terminal(["chat", "-n", "3"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("ROMEO:")
        terminal.wait_for_prompt(2)
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0
    assert stat.S_IMODE(history_file(home).stat().st_mode) == 0o600
    with Terminal(["chat", "-n", "3"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.send(UP)
        terminal.wait_for(">>> ROMEO:")
        terminal.send(CTRL_C)
        terminal.wait_for_prompt(2)
        terminal.send(CTRL_C)
        terminal.wait_for("Ctrl-C again, Ctrl-D or /exit leaves")
        terminal.wait_for_prompt(3)
        terminal.send(CTRL_C)
        assert terminal.wait_for_end() == 130


def test_lines_blocks_and_completion(home, tmp_path):
    kept = tmp_path / "s.jsonl"
    (tmp_path / "notes.txt").write_text("of a file\n")
    with Terminal(["chat", "-m", TINY, "-n", "3", "--session", str(kept)], env=home) as terminal:
        terminal.wait_for_prompt(1)
        for keys, text in [
            ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
            ("one\\" + ENTER + "two" + ENTER, "one\ntwo"),
            ('"""' + ENTER + "a block" + ENTER + "of two" + ENTER + '"""' + ENTER, "a block\nof two"),
            (" /not a command" + ENTER, " /not a command"),
            ("/usr/bin is a folder" + ENTER, "/usr/bin is a folder"),
        ]:
            n_before = len(said(kept, "user")) if kept.exists() else 0
            terminal.send(keys)
            terminal.wait(lambda n=n_before: kept.exists() and len(said(kept, "user")) == n + 1, what=repr(text))
            assert said(kept, "user")[-1] == text
            terminal.wait(terminal.is_ready)
        terminal.send("/rea\t")
        terminal.wait_for(">>> /read")
        terminal.send(f" {tmp_path}/no\t")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y].endswith("notes.txt"[-1]))
        terminal.send(ENTER)
        terminal.wait_for("9 characters go with the next message")
        terminal.wait(terminal.is_ready)
        terminal.type("What is it?")
        terminal.wait(lambda: said(kept, "user")[-1] == "of a file\n\nWhat is it?")
        terminal.wait(terminal.is_ready)
        terminal.type("/nonsense")
        terminal.wait_for("there is no command /nonsense")
        terminal.wait(terminal.is_ready)
        kept.write_text("")  # as another program would
        terminal.type("and now?")
        terminal.wait_for("was changed by another program")
        terminal.wait(terminal.is_ready)
        assert kept.read_text() == ""
        elsewhere = conversation_of(tmp_path / "s-2.jsonl")
        assert (len(elsewhere), elsewhere[-2]["content"]) == (14, "and now?")
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_what_the_model_says_cannot_act_on_the_terminal(home):
    """An answer that begins with escape sequences, by --prefill: they are shown, never sent. Markdown or not."""
    evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e"
    with Terminal(["chat", "-m", TINY, "-n", "4", "--prefill", evil], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("Hi")
        terminal.wait_for_prompt(2)
        assert r"\x1b[2J\x1b]0;title\x07\x9b31m\u202e" in "\n".join(terminal.text())
        terminal.type("/set markdown on")
        terminal.wait_for_prompt(3)
        terminal.type("Hi")
        terminal.wait_for_prompt(4)
        assert "".join(terminal.text()).count(r"\x1b[2J\x1b]0;title\x07") == 2
        assert b"\x1b[2J" not in terminal.sent
        assert b"\x1b]" not in terminal.sent
        assert_only_known_sequences(terminal.sent)
        terminal.type("/set prefill **bold** thing,")
        terminal.wait_for_prompt(5)
        terminal.type("Hi")
        terminal.wait_for_prompt(6)
        answer = "\n".join(terminal.text()).split(">>> Hi")[-1]
        assert "bold thing," in answer
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_errors_leave_the_conversation_and_the_line(home):
    """The toy knows no digits: the line is there again, to be typed differently. A signal ends the prompt cleanly."""
    with Terminal(["chat", "-n", "3", "--no-history", "--no-session"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("ROMEO 7")
        terminal.wait_for("'7' at character 6")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y] == ">>> ROMEO 7")
        terminal.send("\x7f:" + ENTER)
        terminal.wait_for_prompt(3)
        terminal.type("/tokens")
        terminal.wait_for("assistant")
        terminal.wait_for_prompt(4)
        terminal.child.kill(15)
        assert terminal.wait_for_end() == 143
        assert b"Traceback" not in terminal.sent
        assert b"exception" not in terminal.sent
    assert not os.path.exists(home["XDG_STATE_HOME"])


def kept_files(home):
    return sorted(Path(home["XDG_STATE_HOME"]).glob("llama-cli/conversations/*"))


def test_the_last_conversation_is_kept(home):
    """For the model, by its owner alone; a new one takes its place once something was said in it."""
    flags = ["chat", "-m", TINY, "-n", "5", "-t", "0"]

    def talk(*lines, more=()):
        with Terminal([*flags, *more], env=home) as terminal:
            n_prompts = 2 if "--continue" in more else 1  # that of the last turn is shown
            terminal.wait_for_prompt(n_prompts)
            began = terminal.text()
            for place, line in enumerate(lines, n_prompts + 1):
                terminal.type(line)
                terminal.wait_for_prompt(place)
            terminal.send(CTRL_D)
            assert terminal.wait_for_end() == 0
        return "\n".join(began)

    assert "kept until your next conversation" in talk("one", "two")
    (path,) = kept_files(home)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    assert said(path, "user") == ["one", "two"]
    talk("/help")
    assert "kept" not in talk("none", more=["--no-session"])
    assert said(path, "user") == ["one", "two"]
    shown = talk(more=["--continue", "-m", TINY])
    assert ">>> two\n" + said(path, "assistant")[1].split("\n")[0] in shown
    assert ">>> one" not in shown
    talk("new")
    assert kept_files(home) == [path]
    assert said(path, "user") == ["new"]


def test_terminals_side_by_side_keep_their_own(home):
    flags = ["chat", "-m", TINY, "-n", "5", "-t", "0"]
    with Terminal(flags, env=home) as first, Terminal(flags, env=home) as second:
        for terminal, word in ((first, "one"), (second, "two")):
            terminal.wait_for_prompt(1)
            terminal.type(word)
            terminal.wait_for_prompt(2)
        assert sorted(said(path, "user")[0] for path in kept_files(home)) == ["one", "two"]
        first.type("more")
        first.wait_for_prompt(3)
        for terminal in (second, first):
            terminal.send(CTRL_D)
            assert terminal.wait_for_end() == 0
    with Terminal([*flags, "--continue"], env=home) as terminal:
        terminal.wait_for_prompt(2)  # that of the last turn is shown
        assert ">>> more" in terminal.text()
        terminal.type("on")
        terminal.wait_for_prompt(3)
        assert [said(path, "user") for path in kept_files(home)] == [["one", "more", "on"]]


def test_a_termination_within_an_answer(home):
    with Terminal(["chat", "-m", TINY, "-n", "8000", "--ignore-eos"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("Hi")
        before = len(terminal.sent)
        terminal.wait(lambda: len(terminal.sent) > before + 500)
        terminal.child.kill(15)
        assert terminal.wait_for_end() == 143


def test_blocks_in_commands(home, tmp_path):
    """Enter within the quotes sent the command with its first line, quotes and all."""
    kept = tmp_path / "s.jsonl"
    with Terminal(
        ["chat", "-m", TINY, "-n", "3", "--ignore-eos", "--session", str(kept)],
        env={**home, "SSH_CONNECTION": "far away"},
    ) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type('/system """two')
        terminal.type('lines"""')
        terminal.wait_for("the system prompt is now: two lines")
        terminal.wait_for_prompt(2)
        terminal.type('"""/exit"""')  # a message, though it looks like a command
        terminal.wait_for_prompt(3)
        assert terminal.sent.index(b"loading bpe1024") < terminal.sent.index(b"chat with")  # not a blank screen
        assert said(kept, "system") == ["two\nlines"]
        assert said(kept, "user") == ["/exit"]
        terminal.type("/edit")
        terminal.wait_for("... /exit")
        terminal.send("!" + ENTER)
        terminal.wait_for_prompt(5)
        terminal.type("/continue")
        terminal.wait_for_prompt(6)
        assert len(conversation_of(kept)[-1]["token_ids"]) == 6  # it went on after three
        terminal.type("/copy")
        terminal.wait(lambda: b"\x1b]52;c;" in terminal.sent)
        terminal.wait_for("by asking the terminal")
        answer = base64.b64decode(terminal.sent.split(b"\x1b]52;c;")[1].split(b"\x07")[0]).decode()
        assert answer == said(kept, "assistant")[-1]
        terminal.type("/")
        terminal.wait_for("/export FILE")
        terminal.wait(terminal.is_ready)
        assert len(said(kept, "user")) == 1
        terminal.type("/bye")
        assert terminal.wait_for_end() == 0


def test_ctrl_z_suspends_and_the_line_comes_back(home):
    """From a shell with job control. Ctrl-Z was a character of the line."""
    with Terminal(["--norc", "--noprofile", "-i"], program=("bash",), env={**home, "PS1": "shell$ "}) as terminal:
        terminal.wait_for("shell$")
        terminal.type(f"{sys.executable} -m llama_cli chat -m {TINY} -n 3")
        terminal.wait_for_prompt(1)
        terminal.send("half a question")
        terminal.wait_for(">>> half a question")
        terminal.send(CTRL_Z)
        terminal.wait_for("Stopped")
        terminal.type("echo back in $SHLVL")
        terminal.wait_for("back in ")
        terminal.type("fg")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y] == ">>> half a question")
        terminal.type("?")
        terminal.wait_for_prompt(terminal.n_prompts() + 1)
        terminal.wait_for(">>> half a question?")
        terminal.type("/exit")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y].startswith("shell$"))


def test_an_error_is_seen_above_or_below_the_draft(home):
    """A line of 200 comes back on the screen and drives off what was said above it."""
    with Terminal(["chat", "-n", "3", "--no-history"], lines=16, env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.paste("\n".join(["a line"] * 99 + ["the last one has a 7"]))
        terminal.wait_for("the last one has a 7")
        terminal.send(ENTER)
        terminal.wait(lambda: terminal.is_ready() and any("error: '7' at" in line for line in terminal.shown()))
        assert terminal.shown()[terminal.screen.cursor.y].endswith("the last one has a 7")
        terminal.send(CTRL_C)
        terminal.wait(lambda: terminal.is_ready() and terminal.shown()[terminal.screen.cursor.y] == ">>>")
        assert "error" not in terminal.shown()[-2]


def test_a_full_context_is_told_with_numbers_that_can_be(home, tmp_path):
    """The refused line stood at the prompt again and was glued to the next; the hint named a flag of the start."""
    notes = tmp_path / "notes.txt"
    notes.write_text("word " * 200)
    with Terminal(["chat", "-m", TINY, "-n", "80", "-c", "60", "--ignore-eos"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("Hi")
        terminal.wait_for("stopped: the context is full")
        terminal.wait_for_prompt(2)
        terminal.wait_for("60 of 60 tokens, full")
        terminal.type("/tokens")
        terminal.wait_for("the context holds 60: it is full")
        terminal.wait_for_prompt(3)
        terminal.type("and now?")
        terminal.wait_for("/set on_overflow truncate, or send less")
        terminal.wait_for_prompt(4)
        assert terminal.shown()[terminal.screen.cursor.y] == ">>>"
        shown = "\n".join(terminal.text())
        assert "--on-overflow" not in shown
        assert "--max-seq-len" not in shown
        terminal.send(UP)
        terminal.wait_for(">>> and now?\n")
        terminal.send(CTRL_C)
        terminal.type("/set on_overflow truncate")
        terminal.wait_for('was "error"')
        terminal.wait(terminal.is_ready)
        terminal.type(f"/read {notes}")
        terminal.wait_for("go with the next message")
        terminal.wait(terminal.is_ready)
        terminal.type("what is it?")
        terminal.wait_for("/read - to send no file along")
        terminal.wait(terminal.is_ready)
        terminal.type("/read -")
        terminal.wait(terminal.is_ready)
        terminal.type("so?")
        terminal.wait_for("messages are not sent any more")
        terminal.wait(terminal.is_ready)
        assert not re.search(r"(?!60)\d\d+ of 60 tokens, full|[7-9]\d of 60 tokens", "\n".join(terminal.text()))


def test_typed_ahead_is_there_after_the_answer(home, tmp_path):
    """Whole and in its order, as the line editor takes it, also where Ctrl-C ends the answer: it was thrown away."""
    kept = tmp_path / "s.jsonl"
    flags = ["-n", "1500", "--ignore-eos", "--session", str(kept)]
    with Terminal(["chat", "-m", TINY, *flags], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type("go on")
        terminal.wait(lambda: len(terminal.sent) > 3000)
        terminal.send("typed earlx\x7fy")
        terminal.send(CTRL_C)
        terminal.wait_for("stopped; what was said is kept")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y] == ">>> typed early")
        terminal.type("")
        before = len(terminal.sent)
        terminal.wait(lambda: len(terminal.sent) > before + 1000)
        long = "word " * 600
        terminal.send(long)
        terminal.send(CTRL_C)
        terminal.wait(lambda: terminal.is_ready() and terminal.shown()[terminal.screen.cursor.y].endswith("word"))
        terminal.type("the end")
        terminal.wait(lambda: len(said(kept, "user")) == 3)
        assert said(kept, "user") == ["go on", "typed early", long + "the end"]


def test_what_a_loaded_message_holds_is_shown_safe(home, tmp_path):
    """Escapes and bidirectional controls of a file reached the terminal through /edit and the history."""
    evil = "\x1b]0;title\x07a\u202eb\u2066c\x9b31m"
    row = {"id": "main\u202e", "messages": [{"role": "system", "content": evil}, {"role": "user", "content": evil}]}
    kept = tmp_path / "s.jsonl"
    kept.write_text(json.dumps(row) + "\n")
    shown = r"\x1b]0;title\x07a\u202eb\u2066c\x9b31m"
    with Terminal(["chat", "-m", TINY, "-n", "3"], env=home) as terminal:
        terminal.wait_for_prompt(1)
        terminal.type(f"/load {kept}")
        terminal.wait_for_prompt(2)
        for place, command in enumerate(("/system", "/tokens", "/branches", "/branches \t"), 3):
            terminal.type(command)
            terminal.wait_for_prompt(place)
        terminal.type("/edit")
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y] == f">>> {shown}")
        terminal.send("\x1b[D" * 3 + "X" + ENTER)
        terminal.wait_for_prompt(8)
        terminal.send(UP)
        terminal.wait(lambda: terminal.shown()[terminal.screen.cursor.y] == f">>> {shown[:-3]}X31m")
        for raw in ("\u202e", "\u2066", "\x9b"):
            assert raw.encode() not in terminal.sent
        assert b"\x1b]" not in terminal.sent
        # On a busy machine the line editor draws each key alone: a move of one cell to the left is a backspace.
        assert_only_known_sequences(terminal.sent.replace(b"\b", b""))
