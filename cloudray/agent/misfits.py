"""Batches that this machine cannot run: does any? If not, whoever submitted them should know.

Nothing is decided here. The tasks stay in the queue, and an agent that joins later finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cloudray import ids
from cloudray.agent.io import Io
from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand, fits, is_exact, python_of
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import Batch, Heartbeat, Shape, unseal
from cloudray.store.base import Get
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of

#: An agent that is just starting gets this long to show up.
PATIENCE_S = 1.0
#: Of so many batches is known that their drivers need not be told again.
_REMEMBERED = 10_000


class Misfits:
    """Looks into batches that do not fit this machine, for the drivers that listen to it.

    `has_driver` says whether one of a job does, and `tell` passes a message on to it.
    """

    def __init__(
        self,
        io: Io,
        has_driver: Callable[[bytes], bool],
        tell: Callable[[bytes, m.Unschedulable], None],
    ) -> None:
        self._io = io
        self._has_driver = has_driver
        self._tell = tell
        self._met: dict[bytes, QueueName] = {}
        #: batches whose drivers have been told
        self._told: set[bytes] = set()

    def met(self, name: QueueName) -> None:
        """A batch in the queue does not fit this machine; may be said again and again."""
        batch = name.batch
        if batch in self._met or batch in self._told or not self._has_driver(ids.job_of(batch)):
            return
        if not self._met:
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_S, lambda: self._io.spawn(self._look()))
        self._met[batch] = name

    async def _look(self) -> None:
        met, self._met = self._met, {}
        beats = await self._io.do(heartbeats())
        for name in met.values():
            if any(_runs_all(name.klass, beat) for beat in beats):
                continue
            key = claim_of(name.stem, 0)
            try:
                body = await self._io.store.perform_async(Get(key))
                if body is None:
                    continue
                batch = unseal(Batch, body, key)
            except RecordError as error:
                self._io.complain(error)
                continue
            python = python_of(name.klass)
            able = [beat for beat in beats if _speaks(python, beat)]
            for shape in batch.shapes:
                if not any(fits(shape.demand, beat.total) for beat in able):
                    self._remember(name.batch)
                    self._tell(ids.job_of(name.batch), _said_of(shape, python, beats, able))

    def _remember(self, batch: bytes) -> None:
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told.add(batch)


def _said_of(
    shape: Shape, python: str, beats: list[Heartbeat], able: list[Heartbeat]
) -> m.Unschedulable:
    missing = "" if able else python
    totals = [beat.total for beat in able or beats]
    return m.Unschedulable(shape.name, shape.demand, nearest(shape.demand, totals), missing)


def _runs_all(klass: str, beat: Heartbeat) -> bool:
    return _speaks(python_of(klass), beat) and is_exact(klass, beat.total)


def _speaks(python: str, beat: Heartbeat) -> bool:
    return not beat.python or beat.python == python


def nearest(demand: Demand, totals: Iterable[Demand]) -> Demand:
    """Of what machines have, that which satisfies most of a demand, and is large besides."""

    def nearness(total: Demand) -> tuple[int, int, int]:
        enough = sum(total.get(name, 0) >= units for name, units in demand.items())
        return enough, total.get("CPU", 0), total.get("memory", 0)

    return max(totals, key=nearness, default={})
