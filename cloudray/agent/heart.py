"""An agent's sign of life, and what it does when it could not give one: it fences itself off.

An agent that holds something beats every heartbeat interval, so that others who see its claims
know that it lives; one that holds nothing need not, and where requests cost and leases are long it
shows itself rarely. It beats again as soon as it begins to hold something: those who watch it count
from their first sight of its claim on.

When a lease has passed on its own clock without a beat, others may have taken what it holds: the
machine was paused, or the store was away. Nothing starts then until a beat is there and it has
been read which claims are still the last ones; what a later claim took is stopped, and nothing
else, so that closing a laptop's lid for the night kills nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from random import Random

from cloudray.agent.discovery import Discovery
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.protocol import claims
from cloudray.protocol.leases import idle_beat_s
from cloudray.protocol.records import Cluster
from cloudray.store.base import StoreError

_log = logging.getLogger(__name__)


class Heart:
    """Beats, notices that it could not, and fences.

    `put(beat)` writes the heartbeat of this number.
    """

    def __init__(
        self,
        io: Io,
        settings: Cluster,
        clock: Callable[[], float],
        rng: Random,
        dispatcher: Dispatcher,
        holdings: Holdings,
        discovery: Discovery,
        put: Callable[[int], Awaitable[None]],
        agent: str,
    ) -> None:
        self._io = io
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._dispatcher = dispatcher
        self._holdings = holdings
        self._discovery = discovery
        self._put = put
        self._agent = agent
        self._beat = 0
        #: when the last beat that is there was sent
        self._beaten_s = clock()
        #: whether that one said that something is held
        self._said_busy = False
        #: until when it is known that nothing was held, so that nothing could be taken
        self._free_s = clock()
        self._wanted = asyncio.Event()

    async def begin(self) -> None:
        """The first beat; from now on, nothing starts when one is late."""
        await self.beat()
        self._dispatcher.is_late = self.is_late

    @property
    def busy(self) -> bool:
        """Whether something is held, or about to be."""
        return bool(self._holdings.holds_anything or self._discovery.claiming)

    def is_late(self) -> bool:
        """Whether a lease has passed in which others may have taken what is held."""
        since_s = max(self._beaten_s, self._free_s)
        return self._clock() - since_s > self._settings.lease_s

    def look(self) -> None:
        """To be called often: whether it is time to beat, or too late."""
        if not self.busy:
            self._free_s = self._clock()
        elif self.is_late():
            self._dispatcher.fenced = True
            self._wanted.set()
        elif not self._said_busy and self._due_s() <= self._clock():
            self._wanted.set()

    def soon(self) -> None:
        """Something has changed that others should know: beat now."""
        self._wanted.set()

    def _due_s(self) -> float:
        rare = not (self.busy or self._said_busy)
        period_s = idle_beat_s(self._settings) if rare else self._settings.heartbeat_s
        return self._beaten_s + period_s

    async def run(self) -> None:
        """Wait until the next beat is due, or wanted; then beat."""
        wait_s = max(0.0, self._due_s() - self._clock()) * (0.9 + 0.2 * self._rng.random())
        with contextlib.suppress(TimeoutError):
            # Python 3.11's `wait_for` swallows a cancellation that comes just as it is wanted.
            async with asyncio.timeout(wait_s):
                await self._wanted.wait()
        self._wanted.clear()
        try:
            await self.beat()
        except StoreError:
            # It is full, say: not at once again.
            await asyncio.sleep(self._settings.heartbeat_s)
            raise

    async def beat(self) -> None:
        """Beat now; after too long a silence, look first whether the claims still hold."""
        self._beat += 1
        busy = self.busy
        began_s = self._clock()
        await self._put(self._beat)
        if self._beat > 1 and self.busy and self.is_late():
            # The store, or the machine, was away for so long.
            self._dispatcher.fenced = True
        if self._dispatcher.fenced:
            await self._check_claims()
            self._dispatcher.fenced = False
        self._beaten_s = began_s
        self._said_busy = busy
        self._dispatcher.run()

    async def _check_claims(self) -> None:
        """After a pause: stop what a later claim took, and only that."""
        self._holdings.doubt(self._discovery.claiming)
        held = list(self._holdings.by_batch.values())
        last = await self._io.do(
            claims.which_are_last([(one.name, one.claim) for one in held], self._agent)
        )
        for one, ours in zip(held, last, strict=True):
            if not ours and not one.dropped:
                _log.warning("batch %s was taken over while this agent paused", one.name.stem)
                running = set(one.running)
                self._dispatcher.interrupt(one, running, force=running)
                self._holdings.drop(one)
