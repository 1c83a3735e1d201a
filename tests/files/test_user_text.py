"""Bytes that a user gives as text: the mark that some editors put before it is none of it."""

import json

import pytest
from helpers import commands
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.errors import InputRejected
from llama_cli.files.user_text import text_of
from llama_cli.tokenizer import load_tokenizer

TINY = str(DATA / "tiny/bpe1024")
MARK = b"\xef\xbb\xbf"
MARKED = MARK + "héllo\n".encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (MARKED, "héllo\n"),
        (MARK, ""),
        (b"", ""),
        (MARK + MARKED, "\ufeffhéllo\n"),  # one is dropped
        (b"a" + MARK, "a\ufeff"),  # and only at the beginning
        (b"\0" * 20, "\0" * 20),
        (b"a\0b", "a\0b"),
        (b"a\0b\0c\0dd", "a\0b\0c\0dd"),
    ],
)
def test_the_text_of_bytes(data, text):
    assert text_of(data, "it") == text


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named(coding):
    with pytest.raises(InputRejected, match="it is UTF-16, not UTF-8") as caught:
        text_of("plain Latin letters".encode(coding), "it")
    assert "iconv -f utf-16" in caught.value.hint


def test_a_later_line_keeps_what_it_has():
    assert text_of(MARKED, "line 2", begins=False) == "\ufeffhéllo\n"
    with pytest.raises(InputRejected, match="line 2 is not valid UTF-8 at byte 1"):
        text_of(b"a\xff", "line 2", begins=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["complete", "--json", "-n", "1", "-m", TINY],
        ["chat", "--chat-template", "none", "--json", "-n", "1", "-m", TINY],
        ["tokenize", "--json", "-m", TINY],
    ],
    ids=lambda each: each[0],
)
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_a_mark_becomes_no_tokens(arguments, way, tmp_path):
    (tmp_path / "text.txt").write_bytes(MARKED)
    if way == "file" and arguments[0] == "chat":
        pytest.skip("chat takes no file but in /read")
    flags = ["-f", str(tmp_path / "text.txt")] if way == "file" else []
    ended = commands.run(*arguments, *flags, stdin=MARKED if way == "pipe" else b"", prepare=commands.from_pipe)
    found = json.loads(ended.out)
    tokenizer = load_tokenizer(f"{TINY}/tokenizer.model")
    expected = tokenizer.encode("héllo", bos=arguments[0] != "tokenize")
    assert found.get("prompt_token_ids", found["token_ids"]) == expected


def test_a_mark_before_lines_files_and_settings(tmp_path, capfdbinary, monkeypatch):
    lines = MARK + b"one\n" + MARK + b"two\n"
    command = ["chat", "-m", TINY, "--chat-template", "none", "--stdin", "--json"]
    command += ["-n", "1", "--logit-bias", "0=100", "--show-prompt"]
    ended = commands.run(*command, stdin=lines, prepare=commands.from_pipe)
    assert "<|begin_of_text|>one" in ended.lines
    assert "two" in ended.lines, "files that were put together have one before each"
    (tmp_path / "text.txt").write_bytes(MARKED)
    assert main(["score", "-m", TINY, "-f", str(tmp_path / "text.txt"), "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["bytes"] == len("héllo".encode())
    (tmp_path / "tools.json").write_bytes(MARK + b'[{"name": "f"}]')
    flags = ["-m", TINY, "--chat-template", "llama3", "--tools", str(tmp_path / "tools.json"), "-n", "1"]
    assert main(["chat", "hi", *flags]) == 0
    (tmp_path / "config.toml").write_bytes(MARK + b"top_k = 7\n")
    monkeypatch.setenv("LLAMA_CLI_CONFIG", str(tmp_path / "config.toml"))
    capfdbinary.readouterr()
    assert main(["config", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["settings"]["top_k"]["value"] == 7
    (tmp_path / "config.toml").write_bytes("top_k = 7\n".encode("utf-16"))
    assert main(["config"]) == 2
    assert b"it is UTF-16, not UTF-8" in capfdbinary.readouterr().err
    (tmp_path / "chars.json").write_bytes(MARK + b'["a", "b"]')
    assert load_tokenizer(tmp_path / "chars.json").vocab_size == 2


def test_utf_16_prompts_exit_5(tmp_path, capfdbinary):
    (tmp_path / "text.txt").write_bytes("Once upon a time".encode("utf-16-le"))
    for command in ("complete", "score", "tokenize"):
        assert main([command, "-m", TINY, "-f", str(tmp_path / "text.txt")]) == 5
        assert b"is UTF-16, not UTF-8" in capfdbinary.readouterr().err
