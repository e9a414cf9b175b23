"""A store that misbehaves as real ones do, from a seed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from random import Random
from typing import Any

import msgspec

from cloudray.store.base import Adopt, Create, Op, Put, Store, TransientStoreError
from cloudray.store.bodies import check_file
from cloudray.store.wording import doing
from cloudray.store.wrapper import Wrapper


class Fault(Enum):
    """What may happen to one operation instead of an honest answer."""

    #: 409: a create is told no although nothing was decided; anything else fails, not done
    CONFLICT = "409 Conflict"
    #: 412: a create is told no by its own write, which a retry below us has sent before
    PRECONDITION = "412 Precondition Failed"
    #: 429: not done
    THROTTLED = "429 Too Many Requests"
    #: 503, not done
    UNAVAILABLE_BEFORE = "503 Slow Down"
    #: 503, but done
    UNAVAILABLE_AFTER = "503 Service Unavailable"
    #: the connection drops when it is done
    DROPPED = "connection dropped"
    #: the connection drops, and a create is done only later, while its writer goes on
    LATE = "connection timed out"


class FaultPlan(msgspec.Struct, frozen=True):
    """How often each fault strikes: probabilities per operation, from 0 to 1 in sum."""

    conflict: float = 0.0
    precondition: float = 0.0
    throttled: float = 0.0
    unavailable_before: float = 0.0
    unavailable_after: float = 0.0
    dropped: float = 0.0
    #: strikes creates only; not for programs that delete what they might still be creating
    late: float = 0.0
    #: how many more operations a late create is overtaken by, at most
    late_by: int = 4
    #: an operation waits a random time up to this first, in seconds
    delay_s: float = 0.0

    @classmethod
    def even(cls, rate: float, *, delay_s: float = 0.0) -> FaultPlan:
        """All faults but LATE, equally often, `rate` of the operations in sum."""
        each = rate / 6
        return cls(each, each, each, each, each, each, delay_s=delay_s)

    def draw(self, rng: Random) -> Fault | None:
        """Draw the fault that strikes the next operation."""
        chance = rng.random()
        for fault, rate in (
            (Fault.CONFLICT, self.conflict),
            (Fault.PRECONDITION, self.precondition),
            (Fault.THROTTLED, self.throttled),
            (Fault.UNAVAILABLE_BEFORE, self.unavailable_before),
            (Fault.UNAVAILABLE_AFTER, self.unavailable_after),
            (Fault.DROPPED, self.dropped),
            (Fault.LATE, self.late),
        ):
            if chance < rate:
                return fault
            chance -= rate
        return None


class Faulty(Wrapper):
    """Injects faults into the operations on a raw backend.

    The same seed and the same sequence of operations give the same faults.

    >>> from cloudray.store import Kind, MemoryStore, seal
    >>> store = Faulty(MemoryStore(), Random(1), FaultPlan(precondition=1.0))
    >>> store.perform(Create("key", b"mine")), store.get("key")
    (False, b'mine')
    """

    def __init__(
        self,
        store: Store,
        rng: Random,
        plan: FaultPlan,
        *,
        sleep: Callable[[float], None] = time.sleep,
        sleep_async: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """Wrap `store`; the sleeps, in seconds, are those of the plan's delays."""
        super().__init__(store)
        self.inline = store.inline and not plan.delay_s
        #: how often each fault struck
        self.struck: Counter[Fault] = Counter()
        self._rng = rng
        self._plan = plan
        self._sleep = sleep
        self._sleep_async = sleep_async or _sleep_async
        self._lock = threading.Lock()
        #: creates that are still under way: how many operations overtake each yet
        self._late: list[tuple[int, Create]] = []

    def perform(self, op: Op) -> Any:
        """Perform one operation, or not, and answer, or lie."""
        fault, delay_s, arrived = self._draw(op)
        if delay_s:
            self._sleep(delay_s)
        for late in arrived:
            self._store.perform(late)
        if fault is None:
            return self._store.perform(op)
        if _is_done(fault):
            self._store.perform(_sent(op))
        return _answer(op, fault)

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation, or not, and answer, or lie."""
        fault, delay_s, arrived = self._draw(op)
        if delay_s:
            await self._sleep_async(delay_s)
        for late in arrived:
            await self._store.perform_async(late)
        if fault is None:
            return await self._store.perform_async(op)
        if _is_done(fault):
            await self._store.perform_async(_sent(op))
        return _answer(op, fault)

    def _draw(self, op: Op) -> tuple[Fault | None, float, list[Create]]:
        with self._lock:
            arrived = [late for overtakers, late in self._late if overtakers == 0]
            self._late = [(n - 1, late) for n, late in self._late if n > 0]
            delay_s = self._rng.uniform(0, self._plan.delay_s) if self._plan.delay_s else 0.0
            fault = self._plan.draw(self._rng)
            if fault is Fault.PRECONDITION and not isinstance(op, Create):
                fault = None
            elif fault is Fault.LATE:
                if isinstance(op, Create):
                    self._late.append((self._rng.randint(0, self._plan.late_by), op))
                else:
                    fault = None
            if fault is not None:
                self.struck[fault] += 1
            return fault, delay_s, arrived


def _is_done(fault: Fault) -> bool:
    return fault in {Fault.PRECONDITION, Fault.UNAVAILABLE_AFTER, Fault.DROPPED}


def _sent(op: Op) -> Op:
    # Who is told that an upload failed still has the file: only success removes it.
    if not isinstance(op, Adopt):
        return op
    check_file(op)
    return Put(op.key, op.path.read_bytes())


def _answer(op: Op, fault: Fault) -> bool:
    if isinstance(op, Create) and fault in {Fault.CONFLICT, Fault.PRECONDITION}:
        return False
    raise TransientStoreError(f"{doing(op)} failed, as injected: {fault.value}")


async def _sleep_async(delay_s: float) -> None:
    import asyncio

    await asyncio.sleep(delay_s)
