"""What a terminal shows: as much of an emulator as our programs need, and no more."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """A terminal of some width that never scrolls anything away.

    Fails on what it does not understand, so that nothing unseen is written.
    """

    def __init__(self, width: int = 80) -> None:
        self._width = width
        self._cells: list[list[str]] = [[]]
        self._row = self._column = 0
        self._unfinished = ""

    def feed(self, text: str) -> None:
        """Take in what a program has written."""
        text = self._unfinished + text
        self._unfinished = ""
        position = 0
        while position < len(text):
            if text[position] != "\x1b":
                self._put(text[position])
                position += 1
                continue
            match = _SEQUENCE.match(text, position)
            if match is None:
                # The rest of the sequence is on its way.
                assert len(text) - position < 20, repr(text[position:])
                self._unfinished = text[position:]
                return
            self._obey(match[1], match[2])
            position = match.end()

    def rows(self) -> list[str]:
        """The lines on the screen, without what is blank at their ends and below them."""
        rows = ["".join(row).rstrip() for row in self._cells]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def _put(self, character: str) -> None:
        if character == "\n":
            self._row += 1
            self._make_room()
        elif character == "\r":
            self._column = 0
        elif character == "\b":
            self._column = max(0, self._column - 1)
        else:
            assert character.isprintable(), repr(character)
            if self._column >= self._width:
                self._row += 1
                self._column = 0
                self._make_room()
            row = self._cells[self._row]
            row += [" "] * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1

    def _make_room(self) -> None:
        while len(self._cells) <= self._row:
            self._cells.append([])

    def _obey(self, arguments: str, command: str) -> None:
        if command == "K":
            row = self._cells[self._row]
            assert arguments in {"", "0", "2"}, arguments
            del row[0 if arguments == "2" else self._column :]
        else:
            assert command == "m", f"CSI {arguments}{command}"
