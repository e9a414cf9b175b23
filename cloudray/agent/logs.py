"""Output that was captured: to the attached drivers at once, to the store in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cloudray.agent.io import Io
from cloudray.protocol.messages import Line
from cloudray.store import envelope, layout
from cloudray.store.base import Delete, Put
from cloudray.store.procedures import Procedure

#: So much of its output is kept of the job of an ephemeral cluster, which lies in memory.
EPHEMERAL_BYTES = 64 << 20
#: No more than this waits for being stored.
_PIECE_BYTES = 4 << 20


class Logs:
    """Collects lines by job."""

    def __init__(
        self,
        io: Io,
        agent: str,
        on_lines: Callable[[bytes, tuple[Line, ...]], None],
        limit_bytes: int | None = None,
        days_of: Callable[[bytes], int] = lambda _: 7,
    ) -> None:
        """Keep at most `limit_bytes` of each job's output, the newest; None keeps all.

        `days_of` tells a job's retention class.
        """
        self._io = io
        self._agent = agent
        self._on_lines = on_lines
        self._limit_bytes = limit_bytes
        self._days_of = days_of
        #: of each job, the pieces that are stored: their keys and sizes
        self._stored: dict[bytes, deque[tuple[str, int]]] = {}
        self._pieces: dict[bytes, int] = {}
        #: what is not stored yet
        self._kept: dict[bytes, list[bytes]] = {}
        self._kept_bytes = 0

    def lines(self, job: bytes, lines: tuple[Line, ...]) -> None:
        """An executor of this job printed these."""
        self._on_lines(job, lines)
        texts = [f"({line.name} pid={line.pid}) {line.text}\n".encode() for line in lines]
        self._kept.setdefault(job, []).extend(texts)
        self._kept_bytes += sum(map(len, texts))
        if self._kept_bytes > _PIECE_BYTES:
            self.flush()

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
        self._kept_bytes = 0
        taken = []
        for job, lines in kept.items():
            number = self._pieces[job] = self._pieces.get(job, -1) + 1
            key = layout.log(self._days_of(job), job, self._agent, number)
            body = envelope.seal(envelope.Kind.LOG, b"".join(lines))
            taken.append(_put(key, body, self._too_old(job, key, len(body))))
        return taken

    def _too_old(self, job: bytes, key: str, size_bytes: int) -> tuple[str, ...]:
        """The pieces that have to go when this one comes."""
        if self._limit_bytes is None:
            return ()
        stored = self._stored.setdefault(job, deque())
        stored.append((key, size_bytes))
        total_bytes = sum(size for _, size in stored)
        gone: list[str] = []
        while total_bytes > self._limit_bytes and len(stored) > 1:
            oldest, size = stored.popleft()
            total_bytes -= size
            gone.append(oldest)
        return tuple(gone)

    def folder(self, job: bytes) -> str:
        """Where this agent's pieces of a job's output lie."""
        key = layout.log(self._days_of(job), job, self._agent, 0).rpartition("/")[0]
        return f"{self._io.store.url.partition('?')[0].rstrip('/')}/{key}"


def _put(key: str, body: bytes, gone: tuple[str, ...]) -> Procedure[None]:
    if gone:
        yield Delete(gone)
    yield Put(key, body)
