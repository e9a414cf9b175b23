"""What executors print: cut into lines, each with the name of the task that printed it."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable

from cloudray.protocol.messages import Line

_MARK = re.compile(rb"\x00\x01(\d+) ([^\x02]*)\x02")
#: A mark of which the rest has not been read yet.
_BEGUN = re.compile(rb"\x00(?:\x01(?:\d+(?: [^\x02]*)?)?)?")
_READ_BYTES = 1 << 15
#: Who prints without end gets so many reads at a time, so that others have their turn.
_READS_A_TURN, _READS_AT_END = 4, 64
#: A line longer than this is passed on in pieces.
_MAX_LINE_BYTES = 1 << 16
#: A mark whose end is not within so many bytes is none: the name of a task is shorter.
_MAX_MARK_BYTES = 4096
#: How many last lines of an executor's pipe are kept for the message about its death.
_KEPT_LINES = 20


class Output:
    """One pipe of one executor."""

    def __init__(
        self,
        descriptor: int,
        *,
        is_error: bool,
        kept: deque[tuple[int, str]],
        on_lines: Callable[[tuple[Line, ...]], None],
        whose: Callable[[int], tuple[int, str] | None] = lambda _ticket: None,
    ) -> None:
        """Read a pipe's end.

        `whose` may know better than the last mark whose line it is: it takes the mark's ticket
        and returns another ticket and name, or None.
        """
        self._descriptor = descriptor
        self._is_error = is_error
        self._kept = kept
        self._on_lines = on_lines
        self._fresh: list[Line] = []
        self._whose = whose
        self._rest = b""
        self._name = ""
        self._ticket = 0
        self.pid = 0
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read, _READS_A_TURN)

    def drain(self) -> None:
        """Read what is there, without waiting."""
        # More than a pipe holds comes from somebody who goes on and on.
        self._read(_READS_AT_END)

    def _read(self, times: int) -> None:
        for _ in range(times):
            if self._descriptor < 0:
                break
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.close()
                break
            self._take(data)
            if len(data) < _READ_BYTES:
                break
        self._pass_on()

    def close(self) -> None:
        """Stop reading; what is left of a line is a line."""
        if self._descriptor < 0:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._end_line()
        self._pass_on()

    def _pass_on(self) -> None:
        if self._fresh:
            lines, self._fresh = tuple(self._fresh), []
            self._on_lines(lines)

    def _take(self, data: bytes) -> None:
        data = self._rest + data
        self._rest = b""
        position = 0
        # A mark cut in two by the read waits, with the line before it, for its other half.
        cut = data.rfind(b"\x00")
        if cut >= 0 and len(data) - cut < _MAX_MARK_BYTES and _BEGUN.fullmatch(data, cut):
            data, tail = data[:cut], data[cut:]
        else:
            tail = b""
        for mark in _MARK.finditer(data):
            self._lines(data[position : mark.start()])
            self._end_line()
            self._ticket = int(mark[1])
            self._name = mark[2].decode(errors="replace")
            position = mark.end()
        self._lines(data[position:])
        self._rest += tail

    def _lines(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = b""
        for line in lines:
            self._emit(line)
        while len(rest) > _MAX_LINE_BYTES:
            self._emit(rest[:_MAX_LINE_BYTES])
            rest = rest[_MAX_LINE_BYTES:]
        self._rest = rest

    def _end_line(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, b""
            self._emit(rest)

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").removesuffix("\r")
        ticket, name = self._whose(self._ticket) or (self._ticket, self._name)
        self._kept.append((ticket, text))
        self._fresh.append(Line(name, self.pid, text, self._is_error))


def kept_lines() -> deque[tuple[int, str]]:
    """A place for the last lines of one pipe, with the tickets they belong to."""
    return deque(maxlen=_KEPT_LINES)
