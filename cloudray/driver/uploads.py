"""Batches and values on their way into a store that is far away: many at once, in order.

The order is what section "submit" of the protocol asks for: a put that names refs starts after
the puts they name are acknowledged. Everything else travels side by side. What names something
that is on its way is always taken in after it, so nothing waits in a circle; and what names
something that could not be stored is not stored either. A function, or code, that was refused is
tried again with the next call that needs it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from cloudray import ids
from cloudray.driver.background import Background
from cloudray.driver.ringing import Ringing
from cloudray.interrupts import Bell
from cloudray.protocol import claims
from cloudray.protocol.records import Batch
from cloudray.store.base import Put, Store, StoreError
from cloudray.store.bodies import size_of
from cloudray.store.layout import QueueName
from cloudray.store.procedures import drive_async

#: Requests under way at once.
MAX_REQUESTS = 32
#: Whoever submits waits while more than so much is on its way.
MAX_PENDING_BYTES = 64_000_000
#: A value up to this size is copied and travels while its `put` has returned.
MAX_COPIED_BYTES = 1_000_000
#: What a task takes beside its arguments, in bytes; roughly.
_TASK_BYTES = 100
#: Who waits is told when something has landed, and looks so often (s) whether a Ctrl-C came as he
#: was to be told.
_LOOK_S = 1.0

#: What others may wait for: a batch, a value (both by unit), a function or a package of code (by
#: digest).
Unit = bytes | str


class _Flight:
    """One thing on its way."""

    __slots__ = ("arrived", "begun", "error", "over", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        #: set on the event loop when it is over
        self.arrived = asyncio.Event()
        #: whether the event loop has taken it over
        self.begun = False
        self.over = False
        self.error: StoreError | None = None


class Uploads:
    """Stores what a driver submits, without keeping it waiting.

    Whoever waits here has a bell of his own (see driver/pump.py for why that is no `Condition`).
    The background's thread takes no lock here: a signal handler may wait for it at any line, so
    also where its own thread holds one.
    """

    def __init__(
        self,
        store: Store,
        background: Background,
        ringing: Ringing,
        on_stored: Callable[[bytes, float], None],
        on_failed: Callable[[bytes, StoreError], None],
    ) -> None:
        """Both are called in the background's thread, and must not take the driver's lock.

        `on_stored` hears of each batch and value, and how many seconds storing it took; `on_failed`
        of each that will never be; `ringing` of each batch before it is stored, so that a bell may
        ring beside that, and then.
        """
        self._store = store
        self._background = background
        self._ringing = ringing
        self._on_stored = on_stored
        self._on_failed = on_failed
        self._flights: dict[Unit, _Flight] = {}
        #: what will never be there
        self._failed: dict[Unit, StoreError] = {}
        #: of these nobody has been told by `wait`
        self._untold: dict[Unit, StoreError] = {}
        #: functions and code that were refused, which are tried again when they are needed
        self._refused: dict[str, Put] = {}
        #: of all that was taken in, and of what of it is over
        self._taken_bytes = self._over_bytes = 0
        # Taken again by a signal handler that submits.
        self._counting = threading.RLock()
        #: of those who wait, in their order
        self._bells: dict[Bell, None] = {}
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    def batch(self, name: QueueName, batch: Batch) -> None:
        """Take in a batch; what it names was taken in before."""
        size_bytes = sum(len(task.arguments) + _TASK_BYTES for task in batch.tasks)
        names = _named_by(batch)
        self._try_again(names)

        async def store() -> None:
            self._ringing.begin(name, batch)
            try:
                await drive_async(self._store, claims.submit(name, batch))
            except BaseException:
                self._ringing.fail(name)
                raise

        async def ring() -> None:
            await self._ringing.stored(name, batch)

        self._take_in(name.batch, names, size_bytes, store, ring)

    def put(self, unit: Unit, op: Put, names: Iterable[Unit] = ()) -> None:
        """Take in a value that nobody changes any more, or a function or code."""

        async def store() -> None:
            try:
                await self._store.perform_async(op)
            except StoreError:
                if isinstance(unit, str):
                    self._refused[unit] = op
                raise

        self._take_in(unit, names, size_of(op.body), store)

    def carries(self, unit: Unit) -> bool:
        """Whether it is on its way."""
        return unit in self._flights

    @property
    def crowded(self) -> bool:
        """Whether whoever wants to submit more should wait first."""
        return self._taken_bytes - self._over_bytes >= MAX_PENDING_BYTES

    def await_room(self) -> None:
        """Wait while too much is on its way. The driver's lock must not be held meanwhile."""
        self._wait_until(lambda: not self.crowded)

    def wait(self, units: Iterable[Unit] | None = None) -> None:
        """Wait until these are stored (None: all there are now).

        Raises the `StoreError` of one that cannot be; of all, once whatever can be is stored.
        """
        if units is None:
            self._wait_until(partial(_have_landed, list(self._flights.values())))
            untold = [self._untold.pop(unit, None) for unit in list(self._untold)]
            for error in untold:
                if error is not None:
                    raise error
            return
        wanted = list(units)
        self._try_again(wanted)
        flights = []
        for unit in wanted:
            flight = self._flights.get(unit)
            if flight is not None:
                flights.append(flight)
            elif (error := self._failed.get(unit)) is not None:
                raise error
        for flight in flights:
            self._wait_until(partial(_have_landed, [flight]))
            if flight.error is not None:
                raise flight.error

    def told(self, unit: Unit) -> None:
        """Whoever waits for it is told that it cannot be stored; `wait` for all need not say so."""
        self._untold.pop(unit, None)

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        bell = Bell()
        try:
            self._bells[bell] = None
            while not ready():
                bell.listen(_LOOK_S)
        finally:
            self._bells.pop(bell, None)

    def _try_again(self, names: Iterable[Unit]) -> None:
        """Store functions and code after all that were refused before."""
        if self._refused:
            for name in names:
                op = self._refused.get(name) if isinstance(name, str) else None
                if op is not None:
                    self.put(name, op)

    def _take_in(
        self,
        unit: Unit,
        names: Iterable[Unit],
        size_bytes: int,
        store: Callable[[], Awaitable[None]],
        ring: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        # A Ctrl-C may have come between taking it in and noting that.
        if unit in self._flights:
            return
        flight = _Flight(size_bytes)
        before = []
        for name in names:
            # What was refused before may be on its way again.
            earlier = self._flights.get(name)
            if earlier is not None:
                before.append(earlier)
            else:
                flight.error = self._failed.get(name, flight.error)
        try:
            with self._counting:
                self._flights[unit] = flight
                self._taken_bytes += size_bytes
            spawned = self._background.spawn(self._fly(unit, flight, before, store, ring))
        except BaseException:
            # A Ctrl-C: whoever tries again finds it as if it had not been tried.
            if not flight.begun:
                self._forget(unit, flight)
            raise
        if not spawned:
            flight.error = StoreError("it was not stored: the driver left")
            self._land(unit, flight)

    async def _fly(
        self,
        unit: Unit,
        flight: _Flight,
        before: list[_Flight],
        store: Callable[[], Awaitable[None]],
        ring: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        flight.begun = True
        begun_s = 0.0
        try:
            for earlier in before:
                await earlier.arrived.wait()
                flight.error = flight.error or earlier.error
            if flight.error is None:
                async with self._slots:
                    begun_s = time.monotonic()
                    await store()
        except StoreError as error:
            flight.error = error
        except BaseException as error:
            flight.error = StoreError(f"it was not stored: {str(error) or 'the driver left'}")
            raise
        finally:
            self._land(unit, flight)
        if flight.error is None:
            if isinstance(unit, bytes):
                self._on_stored(unit, time.monotonic() - begun_s)
            if ring is not None:
                await ring()

    def _forget(self, unit: Unit, flight: _Flight) -> None:
        if self._flights.get(unit) is flight and self._flights.pop(unit, None) is flight:
            self._over_bytes += flight.size_bytes

    def _land(self, unit: Unit, flight: _Flight) -> None:
        # Before it leaves: whoever does not find it on its way looks for it here.
        if flight.error is not None:
            self._failed[unit] = flight.error
            if isinstance(unit, bytes):
                self._untold[unit] = flight.error
        else:
            self._failed.pop(unit, None)
            if isinstance(unit, str):
                self._refused.pop(unit, None)
        self._forget(unit, flight)
        flight.over = True
        for bell in list(self._bells):
            bell.ring()
        flight.arrived.set()
        if flight.error is not None and isinstance(unit, bytes):
            self._on_failed(unit, flight.error)


def _have_landed(flights: list[_Flight]) -> bool:
    """Whether all are over; those that are leave the list."""
    while flights and flights[-1].over:
        flights.pop()
    return not flights


def _named_by(batch: Batch) -> set[Unit]:
    """What must be stored before a batch is."""
    names: set[Unit] = {shape.function for shape in batch.shapes}
    names.update(package.digest for shape in batch.shapes for package in shape.code.packages)
    for task in batch.tasks:
        for identifier in (*task.depends_on, *task.contains):
            names.add(ids.unit_of(identifier))
        if task.arguments_id:
            names.add(ids.unit_of(task.arguments_id))
    names.discard(batch.id)
    return names
