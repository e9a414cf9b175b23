"""Jobs that have ended: an agent neither runs nor writes anything for them any more."""

from __future__ import annotations

import logging
from typing import Any

from cloudray import ids
from cloudray.agent.functions import Functions
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.protocol import claims
from cloudray.protocol.endings import DAY_S, mark, over_after
from cloudray.protocol.jobs import Listed, read_ending
from cloudray.protocol.records import Ending
from cloudray.store import layout
from cloudray.store.base import Entry, Head
from cloudray.store.envelope import RecordError

_log = logging.getLogger(__name__)

#: So many jobs are remembered; of others is asked again.
_REMEMBERED = 1000


class Endings:
    """Knows which jobs have ended, of those that something is held of; asks now and then.

    A job ends when its mark says so, or its retention after its start. Both times are the store's:
    when the job's record was written, and when this agent's own last heartbeat was.
    """

    def __init__(self, io: Io, functions: Functions, holdings: Holdings, heartbeat: str) -> None:
        """`heartbeat` is the key of this agent's own."""
        self._io = io
        self._functions = functions
        self._holdings = holdings
        self._heartbeat = heartbeat
        self._ended: dict[bytes, None] = {}
        #: when each job ends at the latest (UTC seconds by the store), where that is known
        self._due_s: dict[bytes, float] = {}
        holdings.is_over = self._ended.__contains__

    async def look(self) -> None:
        """Ask for every job that something is held of; stop what runs of those that have ended."""
        jobs = {held.job: held.batch.id for held in self._holdings.by_batch.values()}
        if not jobs:
            return
        now_s = await self._now_s()
        for job, batch in jobs.items():
            try:
                await self._look_at(job, batch, now_s)
            except RecordError as error:
                # It says nothing of the other jobs.
                self._io.complain(error)
        _trim(self._due_s)
        _trim(self._ended)

    async def _look_at(self, job: bytes, batch: bytes, now_s: int | None) -> None:
        ending = await self._io.do(read_ending(batch))
        if ending is None and now_s is not None and await self._is_past(job, batch, now_s):
            # So that whoever waits for it, or is about to claim some of it, learns it too.
            days = ids.days_of(batch)
            listed = Listed(days, job, self._functions.job(job))
            ending = Ending(now_s, over_after(days), listed.name)
            await self._io.do(mark(listed, ending))
        if ending is not None:
            await self._end(job)

    async def _now_s(self) -> int | None:
        line: Entry | None = await self._io.store.perform_async(Head(self._heartbeat))
        return None if line is None else line.modified_s

    async def _is_past(self, job: bytes, batch: bytes, now_s: int) -> bool:
        if job not in self._due_s:
            line: Entry | None = await self._io.store.perform_async(Head(layout.meta(batch)))
            if line is None or line.modified_s is None:
                return False
            self._due_s[job] = line.modified_s + ids.days_of(batch) * DAY_S
        return now_s > self._due_s[job]

    async def _end(self, job: bytes) -> None:
        _log.warning("job %s has ended: what runs of it is stopped", job.hex())
        self._ended[job] = None
        for name in self._holdings.end(job):
            # Nobody need find it again: of such a job nothing is run, here or elsewhere.
            await self._io.do(claims.retire(name))


def _trim(known: dict[bytes, Any]) -> None:
    """Forget the oldest."""
    for job in list(known)[: max(0, len(known) - _REMEMBERED)]:
        del known[job]
