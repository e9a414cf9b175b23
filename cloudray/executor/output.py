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
        #: whether the last character written was not the end of a line
        self._in_line = False

    def write(self, text: str, /) -> int:
        """Write text, after a mark if another task spoke last."""
        if self._marked != self._speaker.ticket:
            self.mark()
        if text:
            self._in_line = text[-1] != "\n"
        return super().write(text)

    def mark(self) -> None:
        """Say who speaks from here on."""
        self.flush()
        self._marked = self._speaker.ticket
        os.write(self._descriptor, mark_of(self._marked, self._speaker.name))

    def finish(self) -> None:
        """The task is over: nothing of its output stays behind in a buffer."""
        if self.closed:
            return
        self.flush()
        if self._in_line:
            # A mark ends the line that the task left open.
            self._in_line = False
            self._marked = 0
            os.write(self._descriptor, mark_of(0, ""))


def mark_of(ticket: int, name: str) -> bytes:
    """The mark that precedes a task's output."""
    return b"\x00\x01%d %s\x02" % (ticket, name.encode(errors="replace"))


class Streams:
    """Standard output and error of this process, for one task after the other."""

    #: A task that starts so long after the last mark is announced even if it never uses Python's
    #: streams, so that what native code and child processes print is known to be its own.
    _QUIET_S = 0.01

    def __init__(self) -> None:
        self._speaker = Speaker()
        self._marked_s = 0.0
        #: the pipes once more, for when a task has closed or redirected theirs
        self._pipes = os.dup(1), os.dup(2)
        self._capture()

    def begin(self, ticket: int, name: str, now_s: float) -> None:
        """A task starts; what an earlier one did to `sys.stdout` is undone."""
        self._speaker.ticket = ticket
        self._speaker.name = name
        if sys.stdout is not self._out or sys.stderr is not self._err:
            sys.stdout, sys.stderr = self._out, self._err
        if self._out.closed or self._err.closed:
            self._capture()
        if now_s - self._marked_s > self._QUIET_S:
            self._marked_s = now_s
            self.connect()
            self._out.mark()
            self._err.mark()

    def finish(self) -> None:
        """The task has ended: pass on what it printed."""
        try:
            self._out.finish()
            self._err.finish()
        except OSError:
            # It has closed a descriptor; what is still in a buffer comes when there is one again.
            self.connect()
            self._capture()

    def connect(self) -> None:
        """Let standard output and error be the pipes to the agent, whatever they are now."""
        for standard, pipe in zip((1, 2), self._pipes, strict=True):
            os.dup2(pipe, standard)

    def _capture(self) -> None:
        self._out, self._err = TaskStream(1, self._speaker), TaskStream(2, self._speaker)
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc] # final for users
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc] # as above
