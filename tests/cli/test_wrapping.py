"""Lines of answers on a screen: broken at words, whatever the pieces they come in, and never in code."""

import random
import sys

import pyte
import pytest
from helpers import commands
from helpers.screen import Terminal
from rich.cells import cell_len

from llama_cli.cli.wrapping import WordWrap


def shown(text, columns, pieces=None):
    """What is sent for a text that comes in pieces, one by default."""
    wrap = WordWrap(cell_len)
    return "".join([*(wrap.feed(piece, columns) for piece in pieces or [text]), wrap.finish()])


def rows(sent, columns):
    """What a screen shows of it."""
    screen = pyte.Screen(columns, 200)
    pyte.Stream(screen).feed(sent.replace("\n", "\r\n"))
    return "\n".join(row.rstrip() for row in screen.display).rstrip("\n").replace("\0", "").split("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five six", ["one two three four", "five six"]),
        ("twenty cells in a row and more", ["twenty cells in a", "row and more"]),
        ("12345678901234567890 x", ["12345678901234567890", "x"]),
        ("123456789012345678 x", ["123456789012345678 x"]),
        ("a  b   c", ["a  b   c"]),
        ("see https://example.org/a/very/long/path now",
         ["see", "https://example.org/", "a/very/long/path now"]),
        ("naïve café in a façade again", ["naïve café in a", "façade again"]),
        ("    - an item of a nested list that is long", ["    - an item of a", "nested list that is", "long"]),
        ("\n\nnew\n\nparagraphs of some more words", ["", "", "new", "", "paragraphs of some", "more words"]),
        ("漢字は意味を表す文字である、と思う", ["漢字は意味を表す文字", "である、と思う"]),
        ("一二三四五六七八九十、と", ["一二三四五六七八九", "十、と"]),  # no comma begins a row
        ("一二三四五六七八九「十」", ["一二三四五六七八九", "「十」"]),  # and no bracket ends one
        ("emoji 👋👋👋👋👋👋👋👋👋", ["emoji 👋👋👋👋👋👋👋", "👋👋"]),
    ],
)  # fmt: skip
def test_rows(text, expected):
    assert rows(shown(text, 20), 20) == expected


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint('a line that is longer than this screen is wide')\n```\n",
        "~~~\nsome words that are longer than a row\n~~~\n",
        "````\n```\nstill in the outer fence, all of it\n```\nhere as well, in one long line\n````\n",
        "    x = some(indented, code, that, goes, on)\n",
        "\tafter a tab = all.of(this, is, code)\n",
        "| a row | of a table | with | columns |\n|---|---|---|---|\n",
        "1. in a list:\n   ```sh\n   echo some words in a row that is longer\n   ```\n",
    ],
)
def test_what_is_copied_is_left_as_it_is(text):
    """A terminal joins rows that it broke itself; a line break of ours would be in the copy."""
    assert shown(text, 24) == text
    assert shown(text, 24, list(text)) == text


def test_behind_a_fence_words_are_whole_again():
    text = "```\na line that is longer than a row\n```\nbut words are kept whole here"
    assert shown(text, 20).endswith("```\nbut words are kept\nwhole here")
    inline = "```x``` is no fence that opens, it is code in a line"
    assert "\n" in shown(inline, 20)


ALPHABET = [*"aab  \n\t-|`", "word", "longerword", "```\n", "漢", "、", "「", "👋", "👨‍👩‍👧", "é", "🇨🇭", "❤️", "\\x1b"]


def random_texts(n):
    chance = random.Random(5)
    for _ in range(n):
        yield "".join(chance.choice(ALPHABET) for _ in range(chance.randrange(80))), chance


def test_pieces_change_nothing():
    """However a text is cut, what is sent in the end is the same; a line break takes the place of spaces alone."""
    for text, chance in random_texts(1000):
        columns = chance.choice([20, 21, 33, 80])
        cuts = sorted(chance.randrange(len(text) + 1) for _ in range(5))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        sent = shown(text, columns)
        assert shown(text, columns, pieces) == sent
        assert sent.translate({32: None, 10: None, 9: None}) == text.translate({32: None, 10: None, 9: None})


def test_no_word_is_broken_that_fits_into_a_row():
    """500 texts of words up to a row long on an emulated screen: no row is longer, every word is in one of them."""
    chance = random.Random(6)
    for _ in range(500):
        words = ["".join(chance.choice("abc漢é") for _ in range(chance.randrange(1, 12))) for _ in range(30)]
        words = [word for word in words if "漢" not in word]
        found = rows(shown(" ".join(words), 20, list(" ".join(words))), 20)
        assert " ".join(found).split() == words


def test_breaks_are_counted_as_a_screen_makes_them():
    """Random texts without signs that terminals disagree about: the cursor is so many rows further down."""
    for text, chance in random_texts(500):
        for sign in ("👨‍👩‍👧", "🇨🇭", "❤️", "\t"):
            text = text.replace(sign, "x")
        columns = chance.choice([20, 33])
        wrap = WordWrap(cell_len)
        sent = wrap.feed(text, columns) + wrap.finish()
        screen = pyte.Screen(columns, 400)
        pyte.Stream(screen).feed(sent.replace("\n", "\r\n"))
        assert wrap.n_breaks == screen.cursor.y, (text, sent)


def test_a_screen_that_changes_or_is_too_narrow():
    text = "some words that go on for more than a row of any screen " * 3
    wrap = WordWrap(cell_len)
    sent = wrap.feed(text, 60) + wrap.feed(text, 30) + wrap.feed(text, 100) + wrap.finish()
    assert sent.replace("\n", " ").split() == (text * 3).split()
    assert max(map(len, sent.split("\n"))) <= 100
    assert shown(text, 12) == text.rstrip()
    assert shown(text, 0) == text.rstrip()


def test_little_is_held_back():
    """The part of a word that may still move, no more; nothing in code or at the beginning of a row."""
    wrap = WordWrap(cell_len)
    assert wrap.feed("Grav", 40) == "Grav"
    assert wrap.feed("ity is a for", 40) == "ity is a"
    assert wrap.feed("ce that", 40) == " force"
    assert wrap.feed("\n```\nx = f(a", 40) == " that\n```\nx = f(a"
    assert wrap.feed(", b) or", 40) == ", b) or"
    assert wrap.finish() == ""


@pytest.mark.parametrize("flags", [[], ["--no-wrap"], ["--no-stream"]])
def test_complete_on_a_screen_and_in_a_pipe(flags):
    """The toy's words are whole on a screen of 24 columns; a pipe, and --no-wrap, have what the model said."""
    arguments = ["complete", "MENENIUS: Hear me, people", "-n", "60", "-t", "0", "--echo", *flags, "-q"]
    piped = commands.run(*arguments).out.decode()
    with Terminal(arguments, columns=24) as terminal:
        assert terminal.wait_for_end() == 0
        sent = terminal.sent.decode().replace("\r\n", "\n")
    if "--no-wrap" in flags:
        assert sent == piped
    else:
        assert sent == shown(piped, 24)
        assert sent != piped
        assert sent.split() == piped.split()


MARKDOWN = """
from llama_cli.cli.terminal import Terminal
terminal = Terminal()
for pieces in (["# Tit", "le\\n\\nSome **bold** words that go ", "on for more than a row of it\\n\\n", "- a\\n- b"],
               ["**word**\\n\\n"] * 40):
    terminal.write(">>>\\n")
    with terminal.markdown() as write:
        for piece in pieces:
            write(piece)
    terminal.write("\\n")
"""


def test_markdown_streams_and_is_drawn_again():
    """It was silent until its end. What has left the screen cannot be drawn again, and stays as it was said."""
    with Terminal(["-c", MARKDOWN], columns=40, lines=14, program=(sys.executable,)) as program:
        assert program.wait_for_end() == 0
        shown = [line.strip() for line in program.text() if line]
    assert b"# Title" in program.sent
    assert shown[:7] == [">>>", "Title", "Some bold words that go on for more than", "a row of it", "• a", "• b", ">>>"]
    assert shown[7:] == ["**word**"] * 40
