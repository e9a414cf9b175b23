"""What tasks print, on its way to one driver: all of it while the driver keeps up.

A driver that does not read as fast as tasks print (a slow terminal, or more than anybody could
read) costs no more memory for that, and holds nobody up: it gets the last lines, and is told how
many are missing before them. All of them are in the log.
"""

from __future__ import annotations

import os
from collections import deque

from cloudray.agent.connection import MAX_UNREAD_BYTES, Connection
from cloudray.protocol.messages import Line, Printed

#: Lines are held back from a driver that has so much unread: results come by the same way.
BACKLOG_BYTES = 2 << 20
#: Of what is held back, so many lines are kept, and no more than so many characters.
KEPT_LINES, KEPT_CHARACTERS = 50_000, 4 << 20
#: So many lines travel in one message.
_AT_ONCE = 1000
#: While tasks go on printing too fast, that is said this often.
NOTICE_S = 1.0


class Screen:
    """Passes lines on to a driver; `log` is where all of them are kept."""

    def __init__(self, connection: Connection, job: bytes, log: str) -> None:
        self._connection = connection
        self._job = job
        self._log = log
        self._kept: deque[Line] = deque()
        #: the processes that have printed what is kept, or what was before it
        self._pids: set[int] = set()
        self._characters = 0
        self._missing = 0
        self._noticed_s = float("-inf")

    def show(self, lines: tuple[Line, ...]) -> None:
        """Pass lines on, or hold them back."""
        if not self._kept and self._connection.unread_bytes < BACKLOG_BYTES:
            self._connection.send(Printed(self._job, lines))
            return
        for line in lines:
            self._kept.append(line)
            self._pids.add(line.pid)
            self._characters += len(line.text)
        while len(self._kept) > KEPT_LINES or self._characters > KEPT_CHARACTERS:
            self._characters -= len(self._kept.popleft().text)
            self._missing += 1

    def catch_up(self, now_s: float) -> None:
        """Pass on what was held back if the driver keeps up again; to be called now and then."""
        if (
            self._kept
            and self._connection.unread_bytes < BACKLOG_BYTES
            and now_s - self._noticed_s >= NOTICE_S
        ):
            self._noticed_s = now_s
            self._pass_on()

    def ended(self, pid: int) -> None:
        """A call of this process has ended: what it printed last comes before its result."""
        if pid in self._pids and self._connection.unread_bytes < MAX_UNREAD_BYTES:
            self._pass_on()

    def _pass_on(self) -> None:
        lines = tuple(self._kept)
        if self._missing:
            lines = (self._notice(), *lines)
        for first in range(0, len(lines), _AT_ONCE):
            self._connection.send(Printed(self._job, lines[first : first + _AT_ONCE]))
        self._kept.clear()
        self._pids.clear()
        self._characters = self._missing = 0

    def _notice(self) -> Line:
        text = (
            f"{self._missing:,} lines of output are left out here, because tasks printed them "
            f"faster than they could be shown; the log has them: {self._log}"
        )
        return Line("cloudray", os.getpid(), text, is_error=True)
