"""Breaks the lines of an answer at words while it streams.

A word that may still have to move to the next row is held back until it has ended; no cursor is ever moved back. What
is to be copied stays as it is: lines in fences, indented code and rows of tables are left to the terminal, which marks
the rows that it breaks itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

NARROWEST = 20  # columns; below, a terminal breaks lines better itself

_FENCE = re.compile(r"\s*(`{3,}(?!.*`)|~{3,})")
_LEFT_AS_IT_IS = re.compile(r"(?: {4}|\t)(?!\s*(?:[-*+•]|\d+[.)])\s)|\s*\|")

ZERO_WIDTH_JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"
# Never at the beginning of a row, and never at the end of one, where texts have no spaces.
_CLOSING = frozenset("、。，．・：；？！」』）］｝〕〉》】〗ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々…’”")
_OPENING = frozenset("「『（［｛〔〈《【〖‘“")


class WordWrap:
    """One answer on its way to a screen, with the cursor at the beginning of a row. `width` is that of a character."""

    def __init__(self, width: Callable[[str], int]) -> None:
        self._width = width
        self._columns = 0
        self._column = 0  # cells taken in this row
        self._line = ""  # since the last line break of the text
        self._fence = ""  # what has opened the fence that this line is in
        self._spaces = self._word = ""  # held back
        self._goes_on = False  # the word has begun on the screen and can no longer move
        self._out: list[str] = []
        self.n_breaks = 0  # rows that were begun, by line breaks and at the edge

    def feed(self, text: str, columns: int) -> str:
        """What may be shown now, on a screen so wide."""
        self._columns = columns if columns >= NARROWEST else 0
        if self._columns:
            self._column = min(self._column, self._columns)
        for character in text:
            self._take(character)
        if self._goes_on or self._column == 0 or not self._may_break():
            self._show_word()
        return self._shown()

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        self._show_word()
        return self._shown()

    def _shown(self) -> str:
        shown = "".join(self._out)
        self._out.clear()
        return shown

    def _take(self, character: str) -> None:
        if character == "\n":
            self._show_word()
            self._end_line()
        elif character in " \t":
            self._show_word()
            self._goes_on = False
            self._spaces += character
            self._line += character
        else:
            if self._is_between_words(character):
                self._show_word()
                self._goes_on = False
            self._word += character
            self._line += character

    def _is_between_words(self, character: str) -> bool:
        """Whether a row may end before a character though there is no space: beside ideographs and emoji."""
        before = self._line[-1:]
        if not before or before in " \t" or before in _OPENING or character in _CLOSING or _joins(before, character):
            return False
        return self._cells(character) > 0 and (self._cells(character) == 2 or self._ends_wide())

    def _ends_wide(self) -> bool:
        base = next((each for each in reversed(self._line) if self._cells(each) > 0), "")
        return bool(base) and self._cells(base) == 2

    def _cells(self, character: str) -> int:
        # Terminals that show a sign as an emoji give it a second cell, others do not.
        return 1 if character in ("\t", EMOJI_STYLE) else self._width(character)

    def _show_word(self) -> None:
        """Show what is held back, in the next row if it does not fit into this one."""
        held = self._spaces + self._word
        if not self._word:  # spaces at the end of a line or of a part of it
            return
        if not self._goes_on and self._column > 0 and self._may_break() and not self._fits(held):
            self._break()
            held = self._word
        self._show(held)
        self._spaces = self._word = ""
        self._goes_on = True

    def _fits(self, text: str) -> bool:
        return self._column + sum(map(self._cells, text)) <= self._columns

    def _may_break(self) -> bool:
        return bool(self._columns) and not self._fence and not _LEFT_AS_IT_IS.match(self._line)

    def _show(self, text: str) -> None:
        self._out.append(text)
        for character in text:
            cells = self._cells(character)
            if character == "\t":
                self._column = min(self._column - self._column % 8 + 8, self._columns or self._column + 8)
            elif self._columns and self._column + cells > self._columns:  # the terminal begins a row
                self._column = cells
                self.n_breaks += 1
            else:
                self._column += cells

    def _end_line(self) -> None:
        if self._spaces and (not self._columns or self._fits(self._spaces)):
            self._show(self._spaces)
        self._break()
        marked = _FENCE.match(self._line)
        if marked and not self._fence:
            self._fence = marked[1]
        elif marked and self._line.strip() == marked[1] and marked[1].startswith(self._fence):
            self._fence = ""
        self._line = self._spaces = ""
        self._goes_on = False

    def _break(self) -> None:
        self._out.append("\n")
        self._column = 0
        self.n_breaks += 1


def _joins(before: str, character: str) -> bool:
    """Whether two characters make one sign: parts of a family, skins, flags."""
    is_flag = all("\U0001f1e6" <= each <= "\U0001f1ff" for each in (before, character))
    is_tail = character in (ZERO_WIDTH_JOINER, EMOJI_STYLE)
    return is_flag or is_tail or before == ZERO_WIDTH_JOINER or "\U0001f3fb" <= character <= "\U0001f3ff"
