"""What was typed and may have been meant otherwise. It is taken as it stands, and the person is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

CONTROL_TOKEN = re.compile(r"<\|\w{1,40}\|>|<s>(?=\s*\[INST\])")
ESCAPE = re.compile(r"\\[nrt]")
ESCAPE_IN_TEXT = re.compile(r"\\[nrt](?![a-z])")  # TeX has \nabla and \text


def doubts_about_text(text: str) -> Iterator[str]:
    """A control token spelt in a text, as in a pasted chat template: it is encoded as plain text."""
    if found := CONTROL_TOKEN.search(text):
        yield (
            f"{found[0]} in the text stays text: control tokens are made by chat,"
            " and by --prompt-ids with what llama-cli tokenize --special --ids prints"
        )


def doubts_about_argument(text: str) -> Iterator[str]:
    r"""`\n`, `\r` or `\t` in a prompt: the shell has left the backslash as it is."""
    found = ESCAPE_IN_TEXT.search(text)
    if found and "\n" not in text:
        yield _of_escape("the prompt", found[0])


def doubts_about_stops(stops: Sequence[str]) -> Iterator[str]:
    """The same in stop strings, which no answer would ever contain."""
    for stop in stops:
        if found := ESCAPE.search(stop):
            yield _of_escape(f"--stop {stop}", found[0])


def _of_escape(where: str, escape: str) -> str:
    what = {"n": "line break", "r": "carriage return", "t": "tab"}[escape[1]]
    return f"{where}: {escape} is a backslash and {_article(escape[1])}; the shell makes a {what} of $'{escape}'"


def _article(letter: str) -> str:
    return f"an {letter}" if letter in "nr" else f"a {letter}"
