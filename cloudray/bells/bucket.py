"""The bucket's bell: one object that names the newest batches, read by conditional GETs.

Rings merge what the bell said before, by a read and a plain put, so two at once may lose one's
names: so each looks a little later whether its names are there, and rings again if not. What is
lost nevertheless only costs time: scans find it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

from cloudray.bells.base import Doorbell, Ear, Heard
from cloudray.bells.hints import MAX_HINTS, Hint, merged, open_hints, seal_hints
from cloudray.bells.pace import Pace
from cloudray.store import layout
from cloudray.store.base import (
    Get,
    GetIfChanged,
    Put,
    Store,
    StoreError,
    Tagged,
    Unchanged,
)
from cloudray.store.envelope import RecordError
from cloudray.store.procedures import Procedure, drive_async
from cloudray.store.signing import TamperedError

_log = logging.getLogger(__name__)

#: Between two rings of one submitter, in seconds; and where a key takes one write per second.
PERIOD_S, LIMITED_PERIOD_S = 0.2, 1.0
#: How many of the latest hints are remembered, so that each is acted upon once.
_REMEMBERED = 32 * MAX_HINTS

Sleep = Callable[[float], Awaitable[None]]


def period_of(url: str) -> float:
    """How long to wait between two rings at this store, in seconds.

    >>> period_of("gs://bucket"), period_of("s3://bucket/prefix")
    (1.0, 0.2)
    """
    limited = url.startswith("gs:") or ".r2.cloudflarestorage.com" in url
    return LIMITED_PERIOD_S if limited else PERIOD_S


class BucketBell(Doorbell):
    """Rings for one submitter, as soon as it may; what is rung meanwhile goes with the next."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        period_s: float | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`clock` is monotonic, in seconds. `period_s`: None for what suits the store."""
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._period_s = period_of(store.url) if period_s is None else period_s
        self._rung_s = float("-inf")
        self._waiting: list[Hint] = []
        self._ringing = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        #: what the bell says, read while a batch is being put
        self._held: tuple[Hint, ...] | None = None
        self._reading = False

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:
        """Read the bell while the batch is put, so that ringing afterwards is one request."""
        del hint, body
        due = self._clock() >= self._rung_s + self._period_s
        if due and self._held is None and not (self._reading or self._ringing):
            self._reading = True
            try:
                self._held = await self._read()
            finally:
                self._reading = False

    async def ring(self, hints: Sequence[Hint]) -> None:
        """Name these batches, now or with the next ring that is allowed."""
        self._waiting += hints
        if self._waiting:
            self._quiet.clear()
        if self._ringing:
            return
        self._ringing = True
        try:
            await self._ring_all()
        except StoreError as error:
            _log.info("the bell could not be rung: %s", error)
        finally:
            self._ringing = False
            self._quiet.set()

    async def _ring_all(self) -> None:
        """Ring until what was rung last is still there a period later."""
        held, self._held = self._held, None
        while self._waiting:
            wait_s = self._rung_s + self._period_s - self._clock()
            if wait_s > 0:
                await self._sleep(wait_s)
                held = None
            if held is None:
                held = await self._read()
            fresh, self._waiting = self._waiting, []
            self._rung_s = self._clock()
            await self._store.perform_async(Put(layout.BELL, seal_hints(merged(held, fresh))))
            if not self._waiting:
                self._quiet.set()
            await self._sleep(self._period_s)
            held = await self._read()
            if len(held) < MAX_HINTS:
                # Somebody else rang at the same time, and had not read ours.
                said = {hint.name.batch: hint.number for hint in held}
                self._waiting[:0] = [
                    hint for hint in fresh if said.get(hint.name.batch, 0) < hint.number
                ]

    async def flush(self) -> None:
        """Wait until all that was rung stands in the bell."""
        await self._quiet.wait()

    async def _read(self) -> tuple[Hint, ...]:
        try:
            body = await self._store.perform_async(Get(layout.BELL))
            return () if body is None else open_hints(body, layout.BELL)
        except (StoreError, RecordError) as error:
            # Overwritten: what it said is lost, as it is when two ring at once.
            _log.info("the bell could not be read: %s", error)
            return ()


class Memory:
    """What the bell said when it was read last, and which hints were told already."""

    def __init__(self) -> None:
        self._etag = ""
        self._told: OrderedDict[Hint, None] = OrderedDict()
        #: bells that could not be read
        self.ignored = 0
        self._complaint = ""

    def look(self) -> Procedure[list[Hint] | None]:
        """Read the bell, if it has changed; returns what is new, None when it is unchanged."""
        try:
            found: Tagged | Unchanged | None = yield GetIfChanged(layout.BELL, self._etag)
            if not isinstance(found, Tagged):
                return None
            self._etag = found.etag
            hints = open_hints(found.body, layout.BELL)
        except RecordError as error:
            self.ignored += 1
            self._complain(error)
            return None
        fresh = [hint for hint in hints if hint not in self._told]
        self._told.update(dict.fromkeys(fresh))
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return fresh

    def _complain(self, error: RecordError) -> None:
        """A bell that is none of ours is met at every look; the store reports forged ones."""
        text = str(error)
        if text != self._complaint and not isinstance(error, TamperedError):
            _log.warning("the bell was ignored: %s", text)
        self._complaint = text


class BucketEar(Ear):
    """Looks at the bell, at a pace that depends on how long ago there was work."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self._store = store
        self._clock = clock
        self._pace = Pace(rng)
        self._memory = Memory()
        #: work came while it looked rarely
        self._busier = asyncio.Event()

    @property
    def agents(self) -> int:
        """How many agents look at the bell."""
        return self._pace.agents

    @agents.setter
    def agents(self, agents: int) -> None:
        self._pace.agents = max(1, agents)

    @property
    def ignored(self) -> int:
        """How many bells could not be read."""
        return self._memory.ignored

    async def begin(self) -> None:
        """Remember what the bell says now."""
        # Whoever starts an agent has work for it.
        self._pace.worked(self._clock())
        await self._look()

    async def hear(self, room: int) -> list[Heard] | None:
        """Wait a while, then look."""
        del room
        await self._wait()
        hints = await self._look()
        if hints:
            self.worked()
        return None if hints is None else [Heard(hint) for hint in hints]

    def worked(self) -> None:
        """Look often for a while, beginning now."""
        now_s = self._clock()
        if self._pace.is_slow(now_s):
            self._busier.set()
        self._pace.worked(now_s)

    async def _wait(self) -> None:
        """Wait until the next look is due."""
        self._busier.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.delay_s(self._clock())):
                await self._busier.wait()
            # The delay was that of an idle agent, and work was found otherwise: by a scan, say.
            await asyncio.sleep(self._pace.delay_s(self._clock()))

    async def _look(self) -> list[Hint] | None:
        try:
            return await drive_async(self._store, self._memory.look())
        except StoreError as error:
            _log.info("the bell could not be read: %s", error)
            return None
