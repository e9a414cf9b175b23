"""Output that was captured: to the attached drivers at once, to the store in pieces."""

from __future__ import annotations

from collections.abc import Callable

from cloudray.agent.io import Io
from cloudray.protocol.messages import Line
from cloudray.store import envelope, layout
from cloudray.store.base import Put
from cloudray.store.procedures import Procedure

#: The retention class of jobs whose batches this agent has seen, unless it knows better.
_DAYS = 7


class Logs:
    """Collects lines by job."""

    def __init__(
        self,
        io: Io,
        agent: str,
        on_lines: Callable[[bytes, tuple[Line, ...]], None],
    ) -> None:
        self._io = io
        self._agent = agent
        self._on_lines = on_lines
        self._pieces: dict[bytes, int] = {}
        self._kept: dict[bytes, list[bytes]] = {}

    def line(self, job: bytes, line: Line) -> None:
        """An executor of this job printed a line."""
        self._on_lines(job, (line,))
        text = f"({line.name} pid={line.pid}) {line.text}\n"
        self._kept.setdefault(job, []).append(text.encode())

    def flush(self) -> None:
        """Write what has come since the last time, one object per job."""
        for writing in self._take():
            self._io.run(writing)

    async def close(self) -> None:
        """Write what is left, and wait until it is written."""
        for writing in self._take():
            await self._io.do(writing)

    def _take(self) -> list[Procedure[None]]:
        kept, self._kept = self._kept, {}
        taken = []
        for job, lines in kept.items():
            number = self._pieces[job] = self._pieces.get(job, -1) + 1
            key = layout.log(_DAYS, job, self._agent, number)
            taken.append(_put(key, envelope.seal(envelope.Kind.LOG, b"".join(lines))))
        return taken

    def folder(self, job: bytes) -> str:
        """Where this agent's pieces of a job's output lie."""
        key = layout.log(_DAYS, job, self._agent, 0).rpartition("/")[0]
        return f"{self._io.store.url.partition('?')[0].rstrip('/')}/{key}"


def _put(key: str, body: bytes) -> Procedure[None]:
    yield Put(key, body)
