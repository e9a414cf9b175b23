"""The store that the rest of the package uses: certain creates, and patience."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from random import Random
from typing import TYPE_CHECKING, Any

from cloudray.store.backoff import Backoff, Pause
from cloudray.store.base import Create, Op, Store, TransientStoreError
from cloudray.store.conditional import create
from cloudray.store.persistence import persist
from cloudray.store.procedures import run, run_async
from cloudray.store.wrapper import Wrapper

if TYPE_CHECKING:
    from cloudray.store.watch import Watch


class Reliable(Wrapper):
    """Wraps a raw backend.

    A `Create` is answered by None (this body holds the key) or by the body that does. Everything
    else is repeated, with backoff, while the store says `TransientStoreError`.

    >>> from cloudray.store import Kind, MemoryStore, seal
    >>> store, first = Reliable(MemoryStore()), seal(Kind.PROBE, b"first")
    >>> store.perform(Create("key", first)) is None
    True
    >>> store.perform(Create("key", seal(Kind.PROBE, b"second"))) == first
    True
    """

    def __init__(
        self,
        store: Store,
        *,
        give_up_s: float | None = None,
        backoff: Backoff | None = None,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        sleep_async: Callable[[float], Awaitable[None]] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Make `store` reliable.

        After `give_up_s` seconds (None: never) an operation raises its `TransientStoreError`.
        `watch` hears of every attempt that failed, and of success after it. The rest is injected
        by simulations: randomness, a monotonic clock, and sleeps, all in seconds.
        """
        super().__init__(store)
        self._raw = store.perform
        self._raw_async = store.perform_async
        self._give_up_s = give_up_s
        self._backoff = backoff or Backoff()
        self._rng = rng or Random()
        self._clock = clock
        self._sleep = sleep
        self._sleep_async = sleep_async or _sleep_async
        self._watch = watch

    def perform(self, op: Op) -> Any:
        """Perform one operation, blocking, until its outcome is known."""
        error: TransientStoreError | None = None
        answer: Any = None
        try:
            answer = self._raw(op)
            if type(op) is not Create:
                return answer
            if answer:
                return None
        except TransientStoreError as raised:
            error = raised
            self._failed(raised)
        return run(self._answer, self._begun(op), answer, error)

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation on the event loop, until its outcome is known.

        A create that is cancelled midway may have happened.
        """
        error: TransientStoreError | None = None
        answer: Any = None
        try:
            answer = await self._raw_async(op)
            if type(op) is not Create:
                return answer
            if answer:
                return None
        except TransientStoreError as raised:
            error = raised
            self._failed(raised)
        return await run_async(self._answer_async, self._begun(op), answer, error)

    def _begun(self, op: Op) -> Generator[Op | Pause, Any, Any]:
        """Return the procedure for `op`, waiting for the answer to its first attempt."""
        loop: Generator[Op | Pause, Any, Any]
        if isinstance(op, Create):
            loop = create(op, give_up_s=self._give_up_s, clock=self._clock)
        else:
            loop = persist(op, give_up_s=self._give_up_s, clock=self._clock)
        next(loop)
        return loop

    def _answer(self, op: Op | Pause) -> Any:
        if isinstance(op, Pause):
            return self._sleep(self._backoff.delay_s(op.attempt, self._rng))
        try:
            answer = self._raw(op)
        except TransientStoreError as error:
            self._failed(error)
            raise
        self._answered()
        return answer

    async def _answer_async(self, op: Op | Pause) -> Any:
        if isinstance(op, Pause):
            return await self._sleep_async(self._backoff.delay_s(op.attempt, self._rng))
        try:
            answer = await self._raw_async(op)
        except TransientStoreError as error:
            self._failed(error)
            raise
        self._answered()
        return answer

    def _failed(self, error: TransientStoreError) -> None:
        if self._watch is not None:
            self._watch.failed(error)

    def _answered(self) -> None:
        if self._watch is not None:
            self._watch.answered()


async def _sleep_async(delay_s: float) -> None:
    import asyncio

    await asyncio.sleep(delay_s)
