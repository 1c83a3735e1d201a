"""What reaches a terminal, and what reaches a pipe."""

import io
import json
import random
import subprocess
import sys
import unicodedata

import pexpect
import pyte
import pytest

from llama_cli.cli.terminal import Terminal, format_stats, one_line, visible
from llama_cli.errors import OutputFailed


def test_controls_are_shown_not_sent():
    assert visible("a\x1b[2Jb\x07\r\x9b\x7f") == r"a\x1b[2Jb\x07\x0d\x9b\x7f"
    assert visible("tab\tline\nend") == "tab\tline\nend"
    assert visible("\u202eevil\u2066\u2028\U000e0041") == r"\u202eevil\u2066\u2028\ue0041"
    assert visible("naïve 漢字 👨‍👩‍👧 [bold]x[/bold]") == "naïve 漢字 👨‍👩‍👧 [bold]x[/bold]"


def test_one_line_is_one_line():
    assert one_line("a\nb\x1b[31m\udcff") == r"a b\x1b[31m\udcff"


def test_every_control_character_of_unicode_is_harmless():
    """Whatever Unicode calls a control or a separator, and every direction mark, is written out."""
    for code in range(0x110000):
        character = chr(code)
        if character in "\t\n" or 0xD800 <= code < 0xE000:
            continue
        bidi = unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"} or bidi:
            assert visible(character) != character, hex(code)


def test_random_output_leaves_a_terminal_as_it_was():
    """500 random outputs with escapes of every kind on an emulated screen: only cells with text change."""
    chance = random.Random(8)
    pieces = [
        "\x1b[2J",
        "\x1b[31m",
        "\x1b]0;title\x07",
        "\x1b]52;c;AAAA\x07",
        "\x9b5A",
        "\x1bc",
        "\x0e",
        "\b\b",
        "\r",
        "abc",
        " ",
    ]
    for _ in range(500):
        text = "".join(chance.choice(pieces) for _ in range(12))
        screen = pyte.Screen(400, 5)
        stream = pyte.Stream(screen)
        stream.feed(visible(text))
        assert screen.title == ""
        assert screen.display[0].rstrip() == visible(text).rstrip()
        assert all(not line.strip() for line in screen.display[1:])
        assert screen.cursor.attrs.fg == "default"


def test_splitting_changes_nothing():
    text = "\x1b[31m漢\u202e" * 3
    assert "".join(visible(character) for character in text) == visible(text)


class Output(io.TextIOWrapper):
    def __init__(self, *, tty: bool):
        super().__init__(io.BytesIO(), encoding="latin-1")
        self._tty = tty

    def isatty(self):
        return self._tty


@pytest.mark.parametrize(
    ("tty", "raw", "expected"),
    [(True, False, "é\\x1b[1m"), (True, True, "é\x1b[1m"), (False, False, "é\x1b[1m")],
)
def test_pipes_get_every_byte_and_terminals_the_visible_form(monkeypatch, tty, raw, expected):
    """UTF-8 whatever the locale says."""
    output = Output(tty=tty)
    monkeypatch.setattr(sys, "stdout", output)
    Terminal(raw=raw).write("é\x1b[1m")
    assert output.buffer.getvalue() == expected.encode()


def test_json_lines_are_ascii_on_one_line(monkeypatch):
    output = Output(tty=False)
    monkeypatch.setattr(sys, "stdout", output)
    value = {"text": "é\u2028\n\x1b\ud83d"}
    Terminal().write_json(value)
    written = output.buffer.getvalue()
    assert written.isascii()
    assert written.count(b"\n") == 1
    assert json.loads(written) == value
    with pytest.raises(ValueError, match="Out of range float"):
        Terminal().write_json({"x": float("nan")})


def test_a_closed_output_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputFailed, match="standard output is closed"):
        Terminal().write("x")


def test_stats_line():
    line = format_stats(
        {
            "load_seconds": 1.25,
            "first_token_seconds": 0.1,
            "prompt_tokens": 12,
            "cached_tokens": 2,
            "prefill_tokens_per_second": 100.0,
            "decode_tokens": 7,
            "decode_tokens_per_second": 20.0,
            "weight_gigabytes_per_second": 5.0,
            "peak_memory_bytes": 2**30,
            "kernels": "own",
        }
    )
    assert line == (
        "load 1.25 s, first token 100 ms, prompt 12 tokens (2 cached) at 100.0/s,"
        " answer 7 tokens at 20.0/s, weights 5.0 GB/s, peak memory 1024 MiB, own kernels"
    )


PIECES = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *(
        "\x1b[2J",
        "\x1b[31m",
        "\x1b[?1049h",
        "\x1b[10;10H",
        "\x1b]0;title\x07",
        "\x1b]52;c;AAAA\x07",
        "\x1b]8;;file:///\x1b\\",
    ),
    *("\x9b5A", "\x1bc", "\x1b#8", "\x1bP1$q\x1b\\", "\u202e", "\u2066", "\u200f", "\u2028", "\ufeff", "\U000e0041"),
    *("[bold red]x[/]", "[link=file:///etc/passwd]y[/link]", "abc", " ", "naïve", "-"),
]
# Writes its texts through a Terminal, each on a line of its own.
WRITER = """
import json, sys
from llama_cli.cli.terminal import Terminal
terminal = Terminal()
for text in json.load(open(sys.argv[1])):
    terminal.write(text + "\\n")
"""


def random_outputs(n):
    """Without tabs and line breaks, which a terminal may have."""
    chance = random.Random(10)
    pieces = [piece for piece in PIECES if piece not in ("\t", "\n")]
    return ["".join(chance.choice(pieces) for _ in range(8)) for _ in range(n)]


@pytest.mark.promise("P10")
def test_random_outputs_on_a_pty_and_in_a_pipe(tmp_path, record_property, whole):
    """On a terminal every one is a line of printable cells and nothing else; in a pipe it is what was said."""
    texts = random_outputs(5000 if whole else 1000)
    record_property("cases", len(texts))
    (tmp_path / "texts").write_text(json.dumps(texts))
    command = [sys.executable, "-c", WRITER, str(tmp_path / "texts")]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert piped == "".join(text + "\n" for text in texts).encode()

    terminal = pexpect.spawn(command[0], command[1:], dimensions=(24, 400), timeout=60)
    sent = b""
    while True:
        try:
            sent += terminal.read_nonblocking(1 << 16, timeout=20)
        except pexpect.EOF:
            break
    lines = sent.decode().split("\r\n")
    assert lines.pop() == ""
    assert len(lines) == len(texts)
    screen = pyte.Screen(400, 3)
    stream = pyte.Stream(screen)
    for line, text in zip(lines, texts, strict=True):
        assert line == visible(text)
        stream.feed("\r\n" + line)
        assert screen.display[screen.cursor.y].rstrip() == line.rstrip()
    assert (screen.title, screen.icon_name, screen.cursor.attrs.fg, screen.cursor.attrs.bold) == ("", "", "default", 0)
    assert not screen.mode - {pyte.modes.DECAWM, pyte.modes.DECTCEM}
