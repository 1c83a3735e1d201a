"""`llama-cli tokenize`, as a user types it."""

import json
import subprocess
import sys

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.tokenizer import load_tokenizer

TINY = str(DATA / "tiny/bpe1024")
FILE = DATA / "tiny/bpe1024/tokenizer.model"


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(*arguments):
        code = main(["tokenize", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_a_line_for_each_token_and_the_counts(run):
    code, out, err = run("-m", TINY, "Hé\x1b\n")
    ids = load_tokenizer(FILE).encode("Hé\x1b\n")
    *rows, counts = out.splitlines()
    assert (code, err) == (0, "")
    assert [int(row.split()[0]) for row in rows] == ids
    assert counts == f"{len(ids)} tokens, 4 characters, 5 bytes"
    assert "\x1b" not in out


def test_pieces_bytes_and_special_tokens_are_shown(run):
    assert run("--tokenizer", DATA / "tokenizer/bytes256.model", "é", "--bos", "--eos")[1].splitlines() == [
        "256  special                   <|begin_of_text|>",
        "195  c3                        part of a character",
        "169  a9                        part of a character",
        "257  special                   <|end_of_text|>",
        "4 tokens, 1 character, 2 bytes",
    ]


def test_text_that_looks_like_a_special_token_stays_text_unless_asked(run):
    tokenizer = load_tokenizer(FILE)
    plain = json.loads(run("-m", TINY, "a<|eot_id|>b", "--json")[1])
    asked = json.loads(run("-m", TINY, "a<|eot_id|>b", "--json", "--special", "--bos")[1])
    specials = set(tokenizer.special_tokens.values())
    assert not specials & set(plain["token_ids"])
    begin, eot = tokenizer.bos_id, tokenizer.special_tokens["<|eot_id|>"]
    assert asked["token_ids"] == [begin, *tokenizer.encode("a"), eot, *tokenizer.encode("b")]
    assert [token["special"] for token in asked["tokens"] if token["special"]] == ["<|begin_of_text|>", "<|eot_id|>"]


def test_json_has_the_documented_names(run):
    code, out, _ = run("-m", TINY, "Hello", "--json")
    answer = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert list(answer) == ["tokens", "token_ids", "text", "n_tokens", "n_characters", "n_bytes", "tokenizer"]
    assert list(answer["tokens"][0]) == ["id", "piece", "bytes", "special"]
    assert bytes(byte for token in answer["tokens"] for byte in token["bytes"]) == b"Hello"
    assert answer["tokenizer"] == {"kind": "tiktoken", "n_words": 1024}


@pytest.mark.parametrize("text", ["Hello, world", "字 😀 é", "  two\n\nlines ", "<|eot_id|>"])
def test_ids_decode_to_the_text(run, text):
    ids = run("-m", TINY, text, "--ids")[1]
    assert run("-m", TINY, "--decode", ids)[:2] == (0, text + "\n")
    assert run("-m", TINY, text, "--count")[1] == f"{len(ids.split(','))}\n"


@pytest.mark.parametrize("ids", ["72,101", "72 101", "[72, 101]", " [72,101]\n"])
def test_ids_may_be_written_in_several_ways(run, ids):
    assert run("--tokenizer", DATA / "tokenizer/bytes256.model", "--decode", ids)[1] == "He\n"


def test_a_model_needs_no_weights_for_that(run, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(FILE.read_bytes())
    assert run("-m", tmp_path, "Hello", "--ids") == run("-m", TINY, "Hello", "--ids")


def test_a_million_tokens_through_a_pipe_without_torch():
    """Also what keeps the command quick: no torch."""
    script = (
        "import sys; from llama_cli.cli.app import main;"
        f"code = main(['tokenize', '-m', {TINY!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    text = "0123456789 " * 50_000
    done = subprocess.run([sys.executable, "-c", script], input=text.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = done.stdout.decode().splitlines()
    assert len(rows) - 1 == len(load_tokenizer(FILE).encode(text))


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["--decode", "x", "-m", TINY], 2, "--decode 'x' is no list of numbers"),
        (["--decode", "1,1024", "-m", TINY], 5, "id 1024 (number 2) is outside the vocabulary of 1,024"),
        (["--decode", "-1", "-m", TINY], 2, "No such option"),
        (["--decode", "1", "--bos"], 2, "are for texts"),
        (["a", "--ids", "--json"], 2, "exclude each other"),
        (["a", "--bos"], 2, "this tokenizer (char) has no begin token"),
        (["é"], 5, "'é' at character 0"),
        (["a", "--tokenizer", "/nowhere/tokenizer.model"], 3, "/nowhere/tokenizer.model: No such file or directory"),
        (["a", "-m", "/nowhere"], 3, "there is no /nowhere"),
    ],
)
def test_mistakes(run, arguments, code, fragment):
    exit_code, out, err = run("-q", *arguments)
    assert (exit_code, out) == (code, "")
    assert fragment in err
