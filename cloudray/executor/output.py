"""What tasks print: each task's first line is preceded by a mark that says whose it is.

Standard output and error are pipes to the agent. The mark travels in the stream itself, so it
can neither overtake the text nor fall behind it, whatever buffers lie in between.
"""

from __future__ import annotations

import io
import os
import sys


class Speaker:
    """The task that is speaking: its ticket and name."""

    __slots__ = ("name", "ticket")

    def __init__(self) -> None:
        self.ticket = 0
        self.name = ""


class TaskStream(io.TextIOWrapper):
    """A text stream that marks the first output of every task."""

    def __init__(self, descriptor: int, speaker: Speaker) -> None:
        # Closing the stream must not close the descriptor: the next task wants it too.
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(
            io.BufferedWriter(raw),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self._descriptor = descriptor
        self._speaker = speaker
        self._marked = 0

    def write(self, text: str, /) -> int:
        """Write text, after a mark if another task spoke last."""
        if self._marked != self._speaker.ticket:
            self.mark()
        return super().write(text)

    def mark(self) -> None:
        """Say who speaks from here on."""
        self.flush()
        self._marked = self._speaker.ticket
        os.write(self._descriptor, mark_of(self._marked, self._speaker.name))

    def finish(self) -> None:
        """The task is over: nothing of its output stays behind in a buffer."""
        if self._marked == self._speaker.ticket and not self.closed:
            self.flush()


def mark_of(ticket: int, name: str) -> bytes:
    """The mark that precedes a task's output."""
    return b"\x00\x01%d %s\x02" % (ticket, name.encode())


def capture(speaker: Speaker) -> tuple[TaskStream, TaskStream]:
    """Replace standard output and error of this process."""
    out, err = TaskStream(1, speaker), TaskStream(2, speaker)
    sys.stdout, sys.stderr = out, err
    return out, err
