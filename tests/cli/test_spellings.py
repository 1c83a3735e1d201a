"""Command lines as Meta's scripts, llama.cpp, ollama and others have them."""

import json
import shlex

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.cli.spellings import ALIASES

TINY = str(DATA / "tiny/bpe1024")


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(line):
        code = main(shlex.split(line))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode().splitlines()

    return run


def test_a_line_of_metas_scripts_runs(run):
    """Underscores in the flags, and --max_batch_size where one prompt runs."""
    meta = f"--ckpt_dir {TINY} --tokenizer_path {TINY}/tokenizer.model --max_seq_len 512 --max_batch_size 6"
    expected = run(f"complete -m {TINY} Hello -n 8 -t 0")
    assert expected[0] == 0
    assert run(f"complete Hello {meta} --temperature 0 --top_p 0.9 --max_gen_len 8") == expected
    assert run(f"complete Hello {meta} -t 0 --max-gen-len=8 --model_parallel_size 1 --seed 1") == expected
    assert run(f"chat Hello {meta} -t 0 --max_gen_len 8")[0] == 0
    assert not any(name.startswith("--") for name in ALIASES)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("complete Hello -n few", "'--max-tokens' / '-n': Input should be a valid integer, is 'few'"),
        ("complete Hello -t hot", "'--temperature' / '-t': Input should be a valid number, is 'hot'"),
        ("bench --rounds 1.5", "'--rounds': Input should be a valid integer, is '1.5'"),
        ("complete Hello --quantize int3", "'--quantize': 'int3' is not one of 'int8', 'int4'."),
    ],
)
def test_a_value_of_another_kind_is_shown(line, reason, run):
    code, _, err = run(line)
    assert (code, err[0]) == (2, f"llama-cli: error: Invalid value for {reason}")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("--num_samples 2", {"n": 2}),
        ("--stop=a_b", {"stop": ["a_b"]}),
        ("--stop --max_gen_len", {"stop": ["--max_gen_len"]}),
        ("--stop --a_b --ignore_eos", {"stop": ["--a_b"], "ignore_eos": True}),
        ("--min_p=0.5 --repetition_penalty 2", {"min_p": 0.5, "repetition_penalty": 2.0}),
    ],
)
def test_underscores_in_flags_alone(flags, wanted, monkeypatch):
    """The words behind a flag are its value, whatever they look like."""
    seen = []
    monkeypatch.setattr("llama_cli.loader.load_model", lambda options: _Loaded(seen))
    assert main(["complete", "Hello", "-q", *flags.split()]) == 1
    assert {name: _plain(getattr(seen[0], name)) for name in wanted} == wanted


class _Loaded:
    """Takes note of what was asked for, and ends there."""

    def __init__(self, seen):
        self.seen = seen

    def requests(self, prompts, sampling):
        self.seen.append(sampling)
        raise RuntimeError("enough")


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_nothing_is_touched_behind_two_hyphens(run):
    code, out, _ = run(f"complete -m {TINY} -n 0 --echo --json -- --max_gen_len")
    assert (code, json.loads(out)["text"]) == (0, "--max_gen_len")


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        # llama.cpp's
        ('-m X -p "a b" -n 16 --temp 0 -ngl 99', "llama-cli complete -m X -n 16 -t 0 'a b' (without -ngl 99)"),
        ("-m X -i", "llama-cli chat -m X"),
        ("-m X -cnv -p Hi", "llama-cli chat -m X Hi"),
        ("-m X -f a.txt -no-cnv", "llama-cli complete -m X -f a.txt"),
        ("-m X --ctx-size 4096 --n-predict 5 --top-k=40 -p Hi", "llama-cli complete -m X -c 4096 -n 5 --top-k 40 Hi"),
        ("-m X -p Hi -t 8 -s 3 -r User:", "llama-cli complete -m X --threads 8 --seed 3 --stop User: Hi"),
        ("-m X -p Hi -c 0 -n -1 -fa", "llama-cli complete -m X Hi (without -fa)"),
        ("-m X -p Hi -fa on --color", "llama-cli complete -m X Hi (without -fa on, --color)"),
        ("-m X.gguf -n 5", "llama-cli convert X.gguf FOLDER, then llama-cli chat -m FOLDER -n 5"),
        ("-hf org/name -st", "llama-cli chat -m org/name (without -st)"),
        ("-p", "llama-cli chat"),
        # ours, with the command elsewhere or nowhere
        ("-m X complete Hi -n 5", "llama-cli complete -m X Hi -n 5"),
        ("-q chat", "llama-cli chat -q"),
        ("--ckpt_dir X --max_seq_len 5", "llama-cli complete --ckpt_dir X --max_seq_len 5"),
        ("-m complete", "llama-cli complete -m complete"),
        ("'Once upon' -n 8", "llama-cli complete 'Once upon' -n 8"),
        (TINY, f"llama-cli chat -m {TINY}"),
        ("x.gguf", "llama-cli convert x.gguf FOLDER"),
        # misspelt
        ("complte Hi", "llama-cli complete Hi"),
        ("Chat", "llama-cli chat"),
        ("comp Hi -n 5", "llama-cli complete Hi -n 5"),
        ("con", "llama-cli --help lists them; a prompt is continued by llama-cli complete con"),
        ("help complte", "llama-cli help complete"),
        ("help ls", "llama-cli help models"),
        ("help Once", "llama-cli help lists them"),
        ("--verison", "llama-cli --version"),
        ("-help", "llama-cli --help"),
        ("Once", "llama-cli --help lists them; a prompt is continued by llama-cli complete Once"),
        # ollama's and others'
        ("run X", "llama-cli chat -m X"),
        ("run X why is 'the sky' blue", "llama-cli chat -m X 'why is the sky blue'"),
        ("run", "llama-cli chat -m MODEL"),
        ("generate Hi", "llama-cli complete Hi"),
        ("list", "llama-cli models"),
        ("show X", "llama-cli info X"),
        ("serve", "llama-cli batch runs a file of prompts, and `import llama_cli` serves a program"),
        ("pull X", "hf download"),
        # flags of others behind a command of ours
        ("complete -p Hi", 'the prompt stands without a flag: llama-cli complete "Once upon a time"'),
        ("complete Hi --temp 0", "--temp is -t here"),
        ("complete Hi --n_predict 5", "--n-predict is -n here"),
        ("complete Hi -ngl 99", "leave -ngl out: there is nothing like it here"),
        ("complete Hi -cnv", "-cnv is a command here: llama-cli chat"),
        ("complete Hi --max_new_tokens 5", "--max-new-tokens is -n here"),
        ("complete Hi --quantization_mode x", "--quantization-mode is --quantize int8, or --quantize int4 here"),
        ("complete Hi --bogus", "llama-cli complete --help"),
        ("complete Hi -n", "llama-cli complete --help"),
        # ours, misspelt, of another command, or too many
        ("complete Hi --temprature 0", "did you mean --temperature? All options: llama-cli complete --help"),
        ("chat Hi --sytem=x", "did you mean --system? All options: llama-cli chat --help"),
        ("complete Hi --no-strem", "did you mean --no-stream? All options: llama-cli complete --help"),
        ("chat Hi --max 5", "did you mean --max-seq-len or --max-tokens? All options: llama-cli chat --help"),
        ("batch a --outputt b", "did you mean --output? All options: llama-cli batch --help"),
        ("bench --round 5", "did you mean --rounds? All options: llama-cli bench --help"),
        ("complete Hi --MAX_TOKNES 5", "did you mean --max-tokens? All options: llama-cli complete --help"),
        ("complete Hi --=5", "llama-cli complete --help"),
        ("complete Hi ---", "llama-cli complete --help"),
        ("complete Hi --temperature", "llama-cli complete --help"),
        ("complete Hi --device", "llama-cli complete --help"),
        ("chat Hi -t", "llama-cli chat --help"),
        ("--", "llama-cli --help"),
        ("--- Hi", "llama-cli --help"),
        ("''", "llama-cli --help"),
        ("complete Hi --mp 2", "--mp is an option of llama-cli convert; of this one: llama-cli complete --help"),
        ("complete Hi -Z", "llama-cli complete --help"),
        ("complete Hi --quantize int9", "llama-cli complete --help"),
        ("batch a", "llama-cli batch --help"),
        ("complete Once upon", 'a text of several words stands in quotes: llama-cli complete "Once upon a time"'),
        ("chat Hello there", 'a text of several words stands in quotes: llama-cli chat "Once upon a time"'),
        ("info a b", "llama-cli info --help"),
    ],
)  # fmt: skip
def test_a_line_of_another_program_is_answered_with_ours(run, line, typed):
    code, out, lines = run(line)
    assert (code, out, len(lines)) == (2, "", 2)
    assert lines[0].startswith("llama-cli: error: ")
    assert lines[1] == f"hint: {typed}" or (typed == "hf download" and lines[1].startswith("hint: hf download "))


def test_whose_line_it_is_stands_in_the_message(run):
    assert "llama.cpp, whose program is called llama-cli too" in run("-m X -p Hi -ngl 9")[2][0]
    assert "llama.cpp" not in run("-m X -n 5")[2][0]


def test_the_version_in_short(run):
    assert run("-V") == run("--version")
