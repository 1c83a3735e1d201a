"""`llama-cli chat` where there is no terminal."""

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from helpers import commands
from helpers.models import DATA

from llama_cli.chat.kept_conversations import claim_new
from llama_cli.chat.run import ChatRun, ChatSettings
from llama_cli.cli.app import main
from llama_cli.cli.chat_screen import ChatScreen
from llama_cli.cli.options import MessageOptions
from llama_cli.cli.slash import Commands
from llama_cli.cli.typed import as_typed, file_of, is_command, is_open, unquoted
from llama_cli.cli.view import View
from llama_cli.engine.request import Sampling
from llama_cli.errors import InputRejected, LlamaError, OutputRefused, UsageError
from llama_cli.files.claim import Claim
from llama_cli.loader import load

TINY = str(DATA / "tiny/bpe1024")
GREEDY = ["-t", "0", "-n", "8", "--ignore-eos"]


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    """Run one command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(*arguments, stdin=None):
        with monkeypatch.context() as patch:
            if stdin is not None:
                patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            code = main(["chat", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_one_answer_in_a_pipe():
    piped = commands.run("chat", "-m", TINY, *GREEDY, stdin=b"Hi\n", prepare=commands.from_pipe)
    assert (piped.code, piped.err) == (0, "")
    assert piped.out.endswith(b"\n")
    assert commands.run("chat", "-m", TINY, *GREEDY, "Hi").out == piped.out


def test_without_a_message(run):
    assert run("-m", TINY)[0] == 2
    code, _, err = run("-m", TINY, "x", "--stdin")
    assert (code, "--stdin reads the messages" in err) == (2, True)


def test_one_message_a_line(run):
    code, out, err = run("-m", TINY, *GREEDY, "--stdin", "--json", stdin="one\n\ntwo\n")
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert (first["turn"], second["turn"]) == (1, 2)
    assert second["prompt_token_ids"][: len(first["prompt_token_ids"]) + 8] == [
        *first["prompt_token_ids"],
        *first["token_ids"],
    ]
    assert second["timings"]["cached_tokens"] == len(first["prompt_token_ids"]) + 7
    plain = run("-m", TINY, *GREEDY, "--stdin", stdin="one\n\ntwo\n")[1]
    assert plain == f"{first['text']}\n{second['text']}\n"


def test_json_has_the_documented_names(run):
    _, out, _ = run("-m", TINY, *GREEDY, "Hi", "--json", "--logprobs", "--seed", "3")
    answer = json.loads(out)
    assert set(answer) == {
        "model", "turn", "text", "token_ids", "prompt_token_ids", "finish_reason", "seed", "usage", "dropped_messages",
        "logprobs", "timings",
    }  # fmt: skip
    assert (answer["seed"], answer["finish_reason"], len(answer["logprobs"])) == (3, "length", 8)


def test_messages_of_other_roles(run):
    """A tool's answer goes back as ipython; a call that is given is shown to the model as it would write it."""
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    lines = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42"},
    ]
    stdin = "\n".join(map(json.dumps, lines))
    code, out, err = run("-m", TINY, *GREEDY, "--stdin-json", "--show-prompt", stdin=stdin)
    assert code == 0
    assert len(out.splitlines()) >= 1
    assert '"parameters": {"x": 1}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n42<|eot_id|>' in err
    code, _, err = run("-m", TINY, *GREEDY, "--stdin-json", stdin="Hello")
    assert (code, "line 1 is no JSON object" in err) == (5, True)
    stdin = '{"role": "user", "content": "Hi", "max_tokens": 3}'
    code, _, err = run("-m", TINY, *GREEDY, "--stdin-json", stdin=stdin)
    assert (code, "line 1: max_tokens is no part of a message" in err) == (5, True)


def test_tools_stand_in_the_system_prompt(run, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]))
    _, _, err = run("-m", TINY, *GREEDY, "Hi", "--tools", tools, "-s", "Be brief.", "--show-prompt")
    assert "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\n" in err
    assert '"get_weather"' in err
    assert "Be brief.<|eot_id|>" in err
    code, _, err = run("-m", TINY, "Hi", "--tools", tools, "--chat-template", "chatml")
    assert (code, "the chat template chatml has no tools" in err, "hint: leave --tools out" in err) == (2, True, True)
    tools.write_text("{")
    assert run("-m", TINY, "Hi", "--tools", tools)[0] == 5


def test_tool_calls_in_json(run):
    call = '[get_weather(city="Bern")]'
    eom = f"{768 + 8}=100"
    command = ["-m", TINY, "-t", "0", "--prefill", call, "--logit-bias", eom, "Weather?", "--json"]
    answer = json.loads(run(*command, "-s", "Environment: ipython")[1])
    (found,) = answer["tool_calls"]
    assert answer["finish_reason"] == "tool_calls"
    assert found == {
        "id": found["id"],
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'},
    }


def test_a_session_goes_on(run, tmp_path):
    kept = tmp_path / "s.jsonl"
    assert run("-m", TINY, *GREEDY, "--session", kept, "one", "-s", "Be brief.")[0] == 0
    code, _, err = run("-m", TINY, *GREEDY, "--session", kept, "two")
    assert (code, "--continue" in err) == (7, True)
    assert run("-m", TINY, *GREEDY, "--session", kept, "--continue", "two")[0] == 0
    (row,) = map(json.loads, kept.read_text().splitlines())
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    together = run("-m", TINY, *GREEDY, "--stdin", "-s", "Be brief.", stdin="one\ntwo\n")[1]
    apart = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert together == "".join(f"{text}\n" for text in apart)


def test_the_cache_goes_on_too_and_is_refused_by_another_model(run, tmp_path):
    kept, flags = tmp_path / "s.jsonl", ["-m", TINY, *GREEDY, "--json", "--dtype", "fp32"]
    first = json.loads(run(*flags, "--session", kept, "--save-cache", "one")[1])
    cache = tmp_path / "s.jsonl.cache"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    saved = cache.read_bytes()
    code, out, err = run(*flags, "--session", kept, "--continue", "--save-cache", "two")
    second = json.loads(out)
    assert (code, err) == (0, "")
    assert second["timings"]["cached_tokens"] == len(first["prompt_token_ids"]) + len(first["token_ids"]) - 1
    together = run(*flags, "--stdin", stdin="one\ntwo\n")[1].splitlines()[1]
    assert json.loads(together)["token_ids"] == second["token_ids"]
    assert cache.stat().st_size > len(saved)

    for damage, fragment in [
        (lambda: cache.write_bytes(saved[:-100]), "is no saved cache, or a damaged one"),
        (lambda: cache.write_bytes(b""), "is no saved cache, or a damaged one"),
        (lambda: cache.write_bytes(saved), "was made by another model, or in another dtype"),
    ]:
        damage()
        other = ["--dtype", "bf16"] if "another" in fragment else []
        code, out, err = run(*flags, *other, "--session", kept, "--continue", "three")
        assert (code, json.loads(out)["timings"]["cached_tokens"]) == (0, 0)
        assert fragment in err


def test_a_cache_that_ranks_share_is_refused_before_the_chat(run, tmp_path):
    flags = ["-m", TINY, *GREEDY, "--session", tmp_path / "s.jsonl", "--save-cache", "one"]
    code, out, err = run(*flags, "--tp", 2)
    assert (code, out) == (2, "")
    assert "--save-cache: several ranks have the cache" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["--save-cache"], 2, "needs the file of the conversation"),
        (["--num-samples", "2"], 2, "one answer to each message"),
        (["--logprobs"], 2, "need --json"),
        (["--prompt-logprobs", "--json"], 2, "does not score its prompts"),
        (["--chat-template", "llama2"], 2, "the chat template llama2 needs tokens"),
        (["--chat-template", "vicuna"], 2, "vicuna"),
        (["-c", "12"], 5, "the context holds 12"),
        (["-f", "/nowhere"], 5, "cannot read /nowhere"),
    ],
)
def test_mistakes(run, arguments, code, fragment):
    found, out, err = run("-m", TINY, "Hello", *arguments)
    assert (found, out) == (code, "")
    assert fragment in err
    assert len(err.splitlines()) <= 2


def test_models_without_a_chat_format_say_so(run):
    code, out, err = run("ROMEO:", "-n", "5", "-t", "0")
    assert code == 0
    assert len(out) == 6
    assert "this model has no chat format: it continues what you write" in err


def test_batch_uses_the_same_choice_of_template(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"messages": [{"role": "user", "content": "ROMEO:"}]}\n')
    flags = ["--output-format", "simple", "-n", "5", "-t", "0", "-q"]
    assert main(["batch", str(source), "-o", str(out), *flags]) == 6
    assert main(["batch", str(source), "-o", str(out), *flags, "--chat-template", "none", "--retry-errors"]) == 0
    assert len(json.loads(out.read_text())["text"]) == 5


# ---- where a conversation is kept


@pytest.fixture(name="no_model")
def _no_model(monkeypatch):
    """Loading is a failure: what is wrong with a file is told before."""
    monkeypatch.setattr("llama_cli.loader.load_model", None)


@pytest.mark.parametrize(
    ("place", "code", "fragment"),
    [
        ("absent/s.jsonl", 74, "there is no folder"),
        ("file/s.jsonl", 74, "cannot write"),
        ("", 7, "is a folder"),
        ("pipe", 7, "is no regular file"),
        ("read-only", 74, "it is read-only"),
        ("broken/s.jsonl", 74, "there is no folder"),
        ("/proc/s.jsonl", 74, "cannot write /proc/s.jsonl"),
        (f"{'x' * 300}.jsonl", 74, "file name too long"),
    ],
)
@pytest.mark.parametrize("go_on", [True, False])
def test_a_session_that_cannot_be_kept_is_told_before_the_model_is_loaded(
    run, no_model, tmp_path, place, code, fragment, go_on
):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "read-only").touch(mode=0o400)
    (tmp_path / "broken").symlink_to("nowhere")
    flags = ["--continue"] if go_on else []
    got, out, err = run("-m", TINY, "Hi", "--session", tmp_path / place, *flags)
    assert (got, out, fragment in err) == (code, "", True), err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken", "file", "pipe", "read-only"]


def test_a_cache_that_cannot_be_kept(run, no_model, tmp_path):
    (tmp_path / "s.jsonl.cache").mkdir()
    code, out, err = run("-m", TINY, "Hi", "--session", tmp_path / "s.jsonl", "--save-cache")
    assert (code, out, "s.jsonl.cache is a folder" in err) == (7, "", True)


def test_a_session_that_another_chat_has_open(run, no_model, tmp_path):
    kept = tmp_path / "s.jsonl"
    kept.touch()
    with Claim(kept):
        code, out, err = run("-m", TINY, "Hi", "--session", kept, "--continue")
    assert (code, out, "is open in another chat" in err) == (7, "", True)


def test_the_last_conversation_goes_on_in_a_pipe_too(run, tmp_path, monkeypatch):
    """One that was kept on a terminal. Elsewhere nothing is kept that nobody asked for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    flags = ["-m", TINY, *GREEDY]
    assert run(*flags, "Hi")[0] == 0
    assert list(tmp_path.iterdir()) == []
    code, _, err = run(*flags, "Hi", "--continue")
    assert (code, "no conversation with bpe1024 is kept" in err) == (5, True)
    with claim_new(DATA / "tiny/bpe1024") as claim:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "you"}]
        claim.path.write_text(json.dumps({"id": "main", "messages": messages}))
    code, out, err = run(*flags, "And?", "--continue", "--json")
    assert (code, json.loads(out)["turn"]) == (0, 2)
    assert [len(row["messages"]) for row in map(json.loads, claim.path.read_text().splitlines())] == [4]
    code, _, err = run(*flags, "And?", "--continue", "--no-session")
    assert (code, "--no-session keeps none" in err) == (2, True)


# ---- commands


@pytest.fixture(name="commands")
def _commands():
    run = ChatRun(load(TINY, batch_size=1), ChatSettings(), Sampling(max_tokens=4, temperature=0), None, print)
    screen = ChatScreen(run, MessageOptions(), View())
    commands = Commands(screen)
    screen.say("one")
    return commands


def test_every_command_of_the_help_is_there(commands, capfd):
    commands.execute("/help")
    shown = capfd.readouterr().err
    wanted = ["help", "exit", "clear", "system", "set", "show", "retry", "undo", "edit", "fork", "branches"]
    wanted += ["save", "load", "read", "tokens", "stats", "export"]
    assert set(wanted) <= set(commands.table)
    assert all(f"/{name} " in shown for name in wanted)
    assert commands.execute("/?") == commands.execute("/help")
    assert commands.execute("/exit").leave


def test_settings(commands, capfd):
    answerer = commands.run.answerer
    for line, name, value in [
        ("/set temperature 0.7", "temperature", 0.7), ("/set temperature 1", "temperature", 1.0),
        ('/set stop ["a", "b"]', "stop", ("a", "b")), ("/set stop END", "stop", ("END",)),
        ("/set seed null", "seed", None), ("/set top-k 5", "top_k", 5),
        ('/set logit_bias {"3": -5}', "logit_bias", {3: -5.0}), ("/set ignore_eos true", "ignore_eos", True),
    ]:  # fmt: skip
        commands.execute(line)
        assert getattr(answerer.sampling, name) == value
    commands.execute("/set on-overflow shift")
    commands.execute("/set markdown on")
    commands.execute("/set prefill Well,")
    assert (answerer.overflow, commands.screen.view.markdown, answerer.prefill) == ("shift", True, "Well,")
    before = answerer.sampling
    for line in ("/set temperature hot", "/set temperature 99", "/set temperature=99", "/set nothing 1", "/set n 2",
                 "/set markdown perhaps", "/set on_overflow never", "/set logit_bias 3", "/set temperature 0.3 0.4",
                 "/set = 1", "/set ignore_eos 3"):  # fmt: skip
        with pytest.raises(UsageError):
            commands.execute(line)
    assert (answerer.sampling, answerer.overflow) == (before, "shift")
    commands.execute("/set")
    assert "temperature 1.0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/set temperature 0.3", "temperature 0.3, was 0.0"),
        ("/set temperature=0.3", "temperature 0.3, was 0.0"),
        ("/set temperature = 0.3", "temperature 0.3, was 0.0"),
        ("/set --temperature=0.3", "temperature 0.3, was 0.0"),
        ("/set temperature", "temperature 0.0"),
        ("/set temperature 0", "temperature 0.0 (as it was)"),
        ("/set ignore-eos on", "ignore_eos true, was false"),
        ("/set on_overflow=truncate", 'on_overflow "truncate", was "error"'),
        ('/set prefill """{\n  "a":"""', 'prefill "{\\n  \\"a\\":", was ""'),
        ("/set stop 42", 'stop ["42"], was []'),
        ("/set stats", "stats false"),
        ("/SET stats on", "stats true, was false"),
        ('/system """Two\nlines."""', "the system prompt is now: Two lines."),
        ("/system -", "there was no system prompt"),
        ("/help undo", "  /undo [N]: take back the last turn, or the last N"),
        ("/help /bye", "  /exit: leave; so do /bye and Ctrl-D"),
    ],
)
def test_every_change_is_answered_in_a_line(commands, capfd, line, answer):
    """They were silent, so that nobody knew whether anything had been set."""
    commands.execute(line)
    assert capfd.readouterr().err.splitlines()[0] == answer


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/set temprature 1", "there is no setting temprature", "/set temperature"),
        ("/set zzz 1", "there is no setting zzz", "/set lists them"),
        ("/retyr", "there is no command /retyr", "/retry; a space before the / makes it a message"),
        ("/temperature 1", "there is no command /temperature", "/set temperature; a space before"),
        ("/on_overflow shift", "there is no command /on_overflow", "/set on_overflow; a space before"),
        ("/help nothing-like-it", "there is no command /nothing-like-it", "/help lists them"),
        ("/clear all", "/clear takes no argument", "/clear; a space before the / makes it a message"),
        ("/retry please", "/retry takes no argument", "/retry"),
        ("/exit now", "/exit takes no argument", "/exit"),
        ("/tool", "/tool needs TEXT", "/help tool"),
        ("/save", "/save needs FILE", "/help save"),
        ("/undo two", "/undo takes a number of turns, not two", "/undo 2"),
        ("/undo 0", "/undo takes a number of turns, not 0", "/undo 2"),
        ("/undo -1", "/undo takes a number of turns, not -1", "/undo 2"),
        ("/undo 2", "only 1 turn can be taken back, not 2", "/undo 1, or /clear"),
        ("/undo 99999999999999999999", "only 1 turn can be taken back", "/undo 1, or /clear"),
        ("/save a b.jsonl", "one file is meant, not 2: a, b.jsonl", 'quote its name: "a b.jsonl"'),
        ("/read /nowhere", "cannot read /nowhere: no such file or directory", "give another file"),
        ("/load /nowhere", "cannot read /nowhere: no such file or directory", "give a file that /save"),
        ("/set logit_bias 5=3", "logit_bias: Input should be", '/set logit_bias {"128001": -100}'),
        ("/set stop_token_ids 5", "stop_token_ids: Input should be", "/set stop_token_ids [128001]"),
        ("/read -", "no file waits to be sent", "/read FILE"),
    ],
)
def test_mistakes_in_commands_change_nothing(commands, line, message, hint):
    """Arguments are checked, and the hints name what can be typed in a chat."""
    conversation = commands.run.conversation
    before = conversation.branch, commands.run.answerer.sampling
    with pytest.raises(LlamaError) as error:
        commands.execute(line)
    assert message in error.value.message
    assert hint in (error.value.hint or "")
    assert (conversation.branch, commands.run.answerer.sampling) == before


def test_help_fits_a_screen_of_80_columns(commands, capfd):
    """Some of its lines were broken by the terminal in the middle of a word."""
    commands.execute("/help")
    assert [line for line in capfd.readouterr().err.splitlines() if len(line) > 80] == []


def test_several_turns_are_taken_back(commands, capfd):
    for text in ("two", "three"):
        commands.screen.say(text)
    capfd.readouterr()
    commands.execute("/undo 2")
    assert [message.content for message in commands.run.conversation.branch.spoken][::2] == ["one"]
    assert capfd.readouterr().err == "took back: three\ntook back: two\n"


def test_files_that_wait_can_be_taken_back(commands, tmp_path):
    """Where they do not fit every later message was refused too."""
    (tmp_path / "my notes.txt").write_text("of a file\n")
    commands.execute(f"/read {tmp_path}/my notes.txt")
    commands.execute(f'/read "{tmp_path}/my notes.txt"')
    assert commands.attached == ["of a file", "of a file"]
    commands.execute("/read -")
    assert commands.attached == []


def test_a_file_is_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "it's here").touch()
    for typed, name in [
        ("notes.txt", "notes.txt"), ('"a b.jsonl"', "a b.jsonl"), ("a\\ b", "a b"), ("it's here", "it's here"),
        ("it's not", "it's not"), ("a folder/x.jsonl", "a folder/x.jsonl"), ("'x y'", "x y"),
        ("~no-such-user/x", "~no-such-user/x"),
    ]:  # fmt: skip
        assert file_of(typed) == Path(name)
    for typed in ("a b", "a b/c d", "one two three"):
        with pytest.raises(UsageError, match="one file is meant"):
            file_of(typed)


def test_what_is_said_moves_between_branches_and_files(commands, tmp_path, capfd):
    conversation = commands.run.conversation
    kept, shown = tmp_path / "c.jsonl", tmp_path / "c.md"
    commands.execute("/system Be brief.")
    commands.execute("/fork aside")
    commands.execute("/undo")
    assert conversation.branch.spoken == ()
    commands.execute(f"/save {kept}")
    commands.execute("/branches main")
    commands.execute(f"/save {kept}")  # its own file it may write again
    commands.execute(f"/export {shown}")
    assert shown.read_text().startswith("## system\n\nBe brief.\n\n## user\n\none\n\n## assistant\n")
    with pytest.raises(OutputRefused, match="exists"):
        Commands(commands.screen).execute(f"/save {kept}")
    commands.execute("/clear")
    assert (conversation.branch.spoken, conversation.system) == ((), "Be brief.")
    commands.execute(f"/load {kept}")
    assert conversation.current == "main-3"  # beside what is there
    assert conversation.branch == conversation.branches["main"]
    commands.execute("/system -")
    assert conversation.system is None
    with pytest.raises(InputRejected):
        commands.execute("/load nowhere")
    capfd.readouterr()
    for line in ("/show", "/tokens", "/stats", "/branches", "/system"):
        commands.execute(line)
    assert "of 8,192 tokens are used" in capfd.readouterr().err


def test_answers_of_tools(commands):
    assert commands.execute("/tool 25 C").answer.role == "tool"
    commands.execute("/undo")
    with pytest.raises(UsageError, match="has called no tool"):
        commands.execute("/tool x")


def test_errors_of_commands(commands):
    for line in ("/nothing", "/edit-it", "/edit_it", "/branches nowhere", "/read /nowhere"):
        with pytest.raises(LlamaError):
            commands.execute(line)


def test_completion(commands, tmp_path):
    assert "/retry" in commands.complete("/re")
    assert commands.complete("/read x") is None
    assert "temperature" in commands.complete("/set te")
    assert not commands.complete("/set temperature 0")
    assert "truncate" in commands.complete("/set on_overflow ")
    assert "undo" in commands.complete("/help u")
    assert commands.complete("/branches ") == ["main"]
    assert commands.complete("hello /re") == []


@pytest.mark.parametrize("text", ["/usr/bin/x is", "/* a comment */", " /help", "//", "/ 2", "and /help", "/a.txt"])
def test_what_is_no_command(text):
    assert not is_command(text)


@pytest.mark.parametrize(
    "text", ["/", "/?", "/help", "/Help me", "/on_overflow x", "/edit-it", '/system """\nx\n"""\n']
)
def test_what_is_one(text):
    assert is_command(text)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [('"""a\nb"""', "a\nb"), ('"""\na\n"""', "a"), ("a", "a"), ('"""', '"""'), ('say """x"""', 'say """x"""')],
)
def test_blocks(typed, sent):
    assert unquoted(typed) == sent
    assert not is_open(typed) or typed == '"""'


@pytest.mark.parametrize(
    ("typed", "opens"),
    [
        ('"""', True), ('"""a\n', True), ('/system """two', True), ('/tool """', True), ('/set prefill """x', True),
        ('/set prefill="""x', True), ('/set stop = """x', True), ('/system """a"""', False), ('/set """', True),
        ('He said """', False), ('/system say """', False), ('/set prefill say """', False), ("/system", False),
    ],
)  # fmt: skip
def test_blocks_of_commands(typed, opens):
    """Enter within one makes a new line: it sent /system with the quotes and the first line."""
    assert is_open(typed) == opens


@pytest.mark.parametrize("message", ["Hello", "/exit", "/help", '"""', '"""x"""', "/", " /exit", "/usr/bin", "a\nb"])
def test_a_message_is_typed_so_that_it_is_read_as_one(message):
    typed = as_typed(message)
    assert not is_command(typed)
    assert unquoted(typed) == message or message == '"""'
