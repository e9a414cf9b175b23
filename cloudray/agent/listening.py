"""When an agent listens to its bell, and when it scans the queue itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from cloudray.agent.discovery import Discovery
from cloudray.agent.rings import PATIENCE_S
from cloudray.bells.base import Ear
from cloudray.bells.pace import FIRST_S

#: How often an agent that is full looks whether it has room again; that costs no request.
_FULL_LOOK_S = 0.1
#: Scans after rings that brought nothing: at most one in so many seconds for each agent, so that
#: all agents together list the queue about as often as they read the bell.
_SCAN_GAP_S = 1.0
#: A full agent scans this many times more rarely.
_FULL_SCANS = 5


class Listening:
    """Hears rings while there is room; scans now and then, and after rings that brought nothing."""

    def __init__(
        self,
        discovery: Discovery,
        ear: Ear | None,
        rng: Random,
        clock: Callable[[], float],
        scan_s: float,
    ) -> None:
        """`ear`: None where scanning is as good as listening."""
        self._discovery = discovery
        self._ear = ear
        self._rng = rng
        self._clock = clock
        self._scan_s = scan_s
        self._scanned_s: float | None = None
        self._begun = asyncio.Event()
        #: a ring brought nothing
        self._wanted = asyncio.Event()
        self._others = 0
        discovery.on_fruitless = self._wanted.set

    def meet(self, others: int) -> None:
        """There are so many other agents."""
        self._others = self._discovery.others = others
        if self._ear is not None:
            self._ear.agents = others + 1

    def worked(self) -> None:
        """The agent had work, so there may soon be more."""
        if self._ear is not None:
            self._ear.worked()

    async def hear(self) -> None:
        """Wait until there is room and the bell rings, or until a while has passed."""
        if self._ear is None:
            await self._forever()
            return
        if not self._begun.is_set():
            # Before the first scan: what was rung earlier is in the queue then.
            await self._ear.begin()
            self._begun.set()
        if self._discovery.is_full:
            await asyncio.sleep(_FULL_LOOK_S)
            return
        heard = await self._ear.hear(self._discovery.room)
        if heard is not None:
            self._discovery.told(heard, shared=self._ear.shared)

    async def scan(self, scan: Callable[[], Awaitable[None]]) -> None:
        """Wait until a scan is due, or wanted after a ring; then scan."""
        if self._scanned_s is None:
            if self._ear is not None:
                await self._begun.wait()
        else:
            await self._await_need(self._scanned_s)
        self._wanted.clear()
        self._scanned_s = self._clock()
        await scan()

    async def look_aside(self) -> None:
        """Wait until batches were left to others for a while; then look whether they took them."""
        if self._ear is None:
            await self._forever()
        await asyncio.sleep(PATIENCE_S * (0.5 + self._rng.random()))
        if self._discovery.has_aside:
            await self._discovery.look_aside()

    async def close(self) -> None:
        """Release what the ear holds."""
        if self._ear is not None:
            await self._ear.close()

    async def _await_need(self, scanned_s: float) -> None:
        scan_s = self._scan_s * (0.9 + 0.2 * self._rng.random())
        try:
            async with asyncio.timeout(scan_s):
                await self._wanted.wait()
        except TimeoutError:
            while self._ear is not None and self._discovery.is_full:
                # Whoever has room scans; should nobody have, it is soon enough when we do.
                if self._clock() - scanned_s > _FULL_SCANS * self._scan_s:
                    return
                await asyncio.sleep(_FULL_LOOK_S)
            return
        # Others heard the same ring.
        gap_s = max(_SCAN_GAP_S, FIRST_S * (self._others + 1))
        wait_s = scanned_s + gap_s - self._clock()
        await asyncio.sleep(max(0.0, wait_s) + gap_s * self._rng.random() * 0.5)

    async def _forever(self) -> None:
        await asyncio.Event().wait()
