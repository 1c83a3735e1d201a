"""`llama-cli complete`, as a user types it."""

import json
import os
import pty
import shutil
import subprocess
import sys
from functools import partial

import pytest
from helpers import commands
from helpers.models import DATA, kit_folder, needs_kit

from llama_cli.cli.app import main

TINY = str(DATA / "tiny/bpe1024")
GREEDY = ["-t", "0", "-n", "12"]


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    """Run one command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(*arguments):
        code = main(["complete", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def start(*arguments, stdin=subprocess.DEVNULL, **more):
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    return subprocess.run(command, stdin=None if "input" in more else stdin, capture_output=True, check=False, **more)


def test_the_toy_is_the_default_and_says_so(run):
    code, out, err = run("ROMEO:", "-n", "20", "--seed", "1")
    assert code == 0
    assert len(out) == 21
    assert out.endswith("\n")
    assert err == "llama-cli: no --model given: running the bundled toy, a small model that writes like Shakespeare\n"


def test_stdout_holds_the_text_and_nothing_else(run):
    code, out, err = run("-m", TINY, "Hello", *GREEDY)
    again = run("-m", TINY, "Hello", *GREEDY, "--no-stream")
    assert (code, err) == (0, "")
    assert again == (code, out, err)


def test_echo(run):
    plain, echoed = run("-m", TINY, "Hello", *GREEDY)[1], run("-m", TINY, "Hello", *GREEDY, "--echo")[1]
    assert echoed == "Hello" + plain


def test_json_has_the_documented_names(run):
    code, out, err = run("-m", TINY, "Hello", *GREEDY, "--json")
    answer = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert list(answer) == [
        "model", "index", "text", "token_ids", "prompt_token_ids", "finish_reason", "seed", "usage", "timings",
    ]  # fmt: skip
    assert answer["model"] == "bpe1024"
    assert answer["text"] + "\n" == run("-m", TINY, "Hello", *GREEDY)[1]
    n_prompt = len(answer["prompt_token_ids"])
    assert answer["usage"] == {"prompt_tokens": n_prompt, "completion_tokens": 12, "total_tokens": n_prompt + 12}
    assert answer["timings"]["decode_tokens"] == 11
    assert answer["timings"]["peak_memory_bytes"] > 10_000_000


def test_logprobs(run):
    _, out, _ = run("-m", TINY, "Hello", *GREEDY, "--json", "--logprobs", "--top-logprobs", 2, "--prompt-logprobs")
    answer = json.loads(out)
    assert [score["token_id"] for score in answer["logprobs"]] == answer["token_ids"]
    for score in answer["logprobs"]:
        assert score["logprob"] == score["top_logprobs"][0]["logprob"] <= 0  # greedy takes the likeliest
        assert len(score["top_logprobs"]) == 2
        assert bytes(score["bytes"]).decode("utf-8", "replace") == score["token"]
    assert answer["prompt_logprobs"][0] is None
    assert [score["token_id"] for score in answer["prompt_logprobs"][1:]] == answer["prompt_token_ids"][1:]


def test_logprobs_need_json(run):
    code, out, err = run("-m", TINY, "Hello", "--logprobs")
    assert (code, out) == (2, "")
    assert err.splitlines()[1] == "hint: add --json"


def test_several_samples(run):
    _, out, _ = run("-m", TINY, "Hello", "-n", 8, "--num-samples", 3, "--seed", 4, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(answer["index"], answer["seed"]) for answer in answers] == [(0, 4), (1, 5), (2, 6)]
    text = run("-m", TINY, "Hello", "-n", 8, "--num-samples", 3, "--seed", 4)[1]
    assert text == "\n---\n".join(answer["text"] for answer in answers) + "\n"
    alone = run("-m", TINY, "Hello", "-n", 8, "--seed", 5, "--json")[1]
    assert json.loads(alone)["text"] == answers[1]["text"]


def test_prompt_as_ids(run):
    by_text = json.loads(run("-m", TINY, "Hello", *GREEDY, "--json")[1])
    ids = ",".join(map(str, by_text["prompt_token_ids"]))
    by_ids = json.loads(run("-m", TINY, "--prompt-ids", ids, *GREEDY, "--json")[1])
    assert by_ids["token_ids"] == by_text["token_ids"]


def test_stats_go_to_stderr(run):
    code, _, err = run("-m", TINY, "Hello", *GREEDY, "--stats")
    assert code == 0
    assert err.startswith("llama-cli: load ")
    assert "first token" in err
    assert "peak memory" in err
    assert err.count("\n") == 1


def test_special_text_in_a_prompt_stays_text(run):
    answer = json.loads(run("-m", TINY, "<|eot_id|>", *GREEDY, "--json")[1])
    assert max(answer["prompt_token_ids"][1:]) < 768


def test_prompts_from_files_and_pipes(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("from a file\n")
    expected = {
        "the argument": (["-m", TINY, "argument"], b"", "argument"),
        "a file": (["-m", TINY, "-f", file], b"", "from a file"),
        "a pipe": (["-m", TINY], b"piped\n", "piped"),
        "a dash": (["-m", TINY, "-"], b"piped", "piped"),
        "an empty pipe that is asked for": (["-m", TINY, "argument", "-f", "-"], b"", "argument\n"),
        "joined": (["-m", TINY, "argument", "-f", file], b"piped\n\n", "argument\nfrom a file\npiped\n"),
    }
    for name, (arguments, given, prompt) in expected.items():
        for prepare in (commands.from_pipe, None):  # a file may be given too
            words = ["complete", *arguments, "-n", 0, "--echo", "--json"]
            ended = commands.run(*words, stdin=given, prepare=prepare)
            assert ended.code == 0, ended.err
            assert json.loads(ended.out)["text"] == prompt, name


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["-m", "nowhere", "x"], 3, "there is no nowhere, neither a folder nor a model", "-m ./FOLDER"),
        (
            ["-m", TINY, "x" * 9000, "-c", "64"],
            5,
            "tokens or more; the context holds 64, the answer included",
            "--max-seq-len",
        ),
        (["abc€", "-q"], 5, "'€' at character 3 (line 1, column 4)", "its 65 characters are"),
        (["", "-q"], 5, "the prompt is empty", "first character"),
        (
            ["-m", TINY, "x", "-t", "-1"],
            2,
            "--temperature: Input should be greater than or equal to 0, is -1",
            "--help",
        ),
        (["-m", TINY, "x", "-t", "1e-45"], 2, "--temperature: temperature must be 0 (greedy) or", "--help"),
        (["-m", TINY, "x", "--top-p", "nan"], 2, "--top-p", "--help"),
        (["-m", TINY, "x", "--num-samples", "0"], 2, "--num-samples", "--help"),
        (["-m", TINY, "x", "--logit-bias", "5"], 2, "--logit-bias '5' is not ID=BIAS", "--logit-bias"),
        (["-m", TINY, "x", "--bogus"], 2, "No such option: --bogus", "--help"),
        (["-m", TINY, "x", "--dtype", "int3"], 2, "int3", "--help"),
        (["-m", TINY, "x", "--device", "toaster"], 2, "'toaster' is no device", "cpu"),
        (["-m", TINY, "x", "--device", "cuda:77"], 4, "there is no device 'cuda:77' here", "--device cpu"),
        (["-m", TINY, "x", "-c", "2147483647"], 4, "needs ", "--max-seq-len"),
        (["-m", TINY, "x", "-c", "2147483648"], 2, "less than or equal to 2147483647", "--help"),
        (["-m", TINY, "--prompt-ids", "1,x"], 2, "--prompt-ids '1,x' is no list of numbers", "1,2,3"),
        (["-m", TINY, "--prompt-ids", "1,,2"], 2, "--prompt-ids '1,,2' is no list of numbers", "1,2,3"),
        (["-m", TINY, "--prompt-ids", "1_0"], 2, "--prompt-ids '1_0' is no list of numbers", "1,2,3"),
        (["-m", TINY, "--prompt-ids", "\u0665"], 2, "is no list of numbers", "1,2,3"),
        (
            ["-m", TINY, "a", "--logit-bias", "5=-100", "--logit-bias", "5=100"],
            2,
            "--logit-bias gives 5 two biases: -100 and 100",
            "give one",
        ),
        (["-m", TINY, "--prompt-ids", "1,9999"], 5, "prompt id 9999 is not in 0 ... 1023", "llama-cli tokenize"),
        (["-m", TINY, "-f", "absent.txt"], 5, "cannot read absent.txt: no such file", "another file"),
        (["-m", TINY, "--rope-scale-factor", "8", "x"], 2, "does not use scaled RoPE", "leave it out"),
        (
            ["-m", TINY, "--tokenizer", str(DATA / "tokenizer/bytes256.model"), "x"],
            3,
            "the tokenizer has 512",
            "--tokenizer",
        ),
        (["-m", TINY, "--tokenizer", "absent", "x"], 3, "absent: No such file", "--tokenizer"),
        (["-m", TINY], 2, "no prompt", "Once upon a time"),
    ],
    ids=lambda value: None if not isinstance(value, list) else " ".join(value)[-40:],
)
def test_mistakes_get_one_line_and_a_way_out(run, arguments, code, message, hint):
    got, out, err = run(*arguments)
    lines = err.splitlines()
    assert (got, out) == (code, "")
    assert lines[0].startswith("llama-cli: error: ")
    assert message in lines[0]
    assert len(lines) == (2 if hint else 1)
    assert hint is None or (lines[1].startswith("hint: ") and hint in lines[1])


def test_errors_as_json(run):
    code, out, err = run("-m", "nowhere", "x", "--json")
    assert (code, out) == (3, "")
    assert json.loads(err)["error"]["code"] == 3


def test_invalid_utf8_is_refused_with_its_place():
    done = start("complete", "-m", TINY, input=b"abc\xff")
    assert done.returncode == 5
    assert b"standard input is not valid UTF-8 at byte 3" in done.stderr
    done = start("complete", "-m", TINY, b"ab\xff".decode("utf-8", "surrogateescape"))
    assert done.returncode == 5
    assert b"the prompt is not valid UTF-8 at byte 2" in done.stderr


def test_names_of_folders_cannot_act_on_the_terminal(run, tmp_path):
    folder = tmp_path / "\x1b[2Jevil\nname"
    folder.mkdir()
    _, _, err = run("-m", folder, "x")
    assert "\x1b" not in err
    assert len(err.splitlines()) == 2


def test_the_model_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("LLAMA_CLI_MODEL", TINY)
    assert json.loads(run("Hello", *GREEDY, "--json")[1])["model"] == "bpe1024"


def test_a_snapshot_with_original_and_a_tokenizer_above(run, tmp_path):
    original = tmp_path / "snapshot" / "original"
    original.mkdir(parents=True)
    for name in ("params.json", "consolidated.00.pth"):
        shutil.copy(DATA / "tiny/bpe1024" / name, original)
    shutil.copy(DATA / "tiny/bpe1024/tokenizer.model", tmp_path / "snapshot")
    answer = json.loads(run("-m", original.parent, "Hello", *GREEDY, "--json")[1])
    assert answer["model"] == "snapshot"


def test_debug_shows_the_traceback(run):
    _, _, err = run("-m", "nowhere", "x", "--debug")
    assert "Traceback" in err
    assert "Traceback" not in run("-m", "nowhere", "x")[2]


ENVIRONMENTS = [
    {},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"COLUMNS": "0", "TERM": "dumb", "NO_COLOR": "1"},
    {"COLUMNS": "-5", "FORCE_COLOR": "1"},
]


@pytest.mark.slow
def test_stdout_is_the_same_in_every_environment():
    outputs = set()
    for change in ENVIRONMENTS:
        done = start("complete", "-m", TINY, "naïve 漢字", *GREEDY, "--echo", env={**os.environ, **change})
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_on_a_terminal_escapes_are_shown():
    """The prompt is echoed: it holds what clears a screen."""
    read, write = pty.openpty()
    arguments = ["complete", "-m", TINY, "a\x1b[2Jb", "-n", "0", "--echo"]
    ended = commands.run(*arguments, prepare=partial(commands.print_to, os.ttyname(write)))
    shown = os.read(read, 1000)
    for descriptor in (write, read):
        os.close(descriptor)
    assert ended.code == 0
    assert shown == b"a\\x1b[2Jb\r\n"


@needs_kit
def test_the_story_from_the_shell(run):
    folder = kit_folder("stories260k-tiktoken")
    documented = json.loads((folder / "golden.json").read_text())["documented_greedy_text_256_tokens"]
    _, out, _ = run("-m", folder, " Once upon a time", "-t", 0, "-n", 251)
    assert ("Once upon a time" + out).strip()[:550] == documented.strip()[:550]
    _, bare, _ = run("-m", folder, "Once upon a time", "-t", 0)  # without the space the model was trained with
    assert ("Once upon a time" + bare)[:400] == documented.strip()[:400]
