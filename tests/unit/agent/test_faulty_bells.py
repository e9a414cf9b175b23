"""Rings that are lost, late, repeated and in disorder change nothing but when work is done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest

from cloudray.bells.base import Doorbell, Ear, Heard
from cloudray.bells.hints import Hint
from cloudray.protocol.records import Batch, Verb, seal
from cloudray.store import layout
from cloudray.timing import REMOTE
from tests.unit.agent.bench import batch_of, name_of, shape_of
from tests.unit.agent.test_listening import Fleet, fleet

__all__ = ["fleet"]

#: One task, several, and some that must not run twice.
BATCHES = [
    batch_of(1 + number % 3, number=number)
    if number % 4
    else batch_of(1, shape_of("once", max_retries=0), number=number)
    for number in range(12)
]


class Faulty(Doorbell):
    """A bell whose rings may be lost, come twice or late, or overtake each other."""

    def __init__(self, rng: Random, *, lost: float, longest_s: float, carries: bool) -> None:
        self.ears: list[FaultyEar] = []
        self._rng = rng
        self._lost = lost
        self._longest_s = longest_s
        self._carries = carries

    def ear(self) -> FaultyEar:
        self.ears.append(FaultyEar())
        return self.ears[-1]

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:
        if self._carries:
            self._send(Heard(hint, body()))

    async def ring(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            self._send(Heard(hint))

    def _send(self, heard: Heard) -> None:
        loop = asyncio.get_running_loop()
        for ear in self.ears:
            while self._rng.random() > self._lost:
                delay_s = self._rng.uniform(0, self._longest_s)
                loop.call_later(delay_s, ear.inbox.put_nowait, heard)
                if self._rng.random() < 0.5:
                    break


class FaultyEar(Ear):
    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Heard] = asyncio.Queue()

    async def hear(self, room: int) -> list[Heard] | None:
        heard = [await self.inbox.get()]
        while not self.inbox.empty():
            heard.append(self.inbox.get_nowait())
        return heard


def last_words(fleet: Fleet, batch: Batch) -> list[tuple[int, Verb]]:
    return sorted((index, verb) for index, verb in fleet.said(batch) if verb is not Verb.STARTED)


def runs(fleet: Fleet) -> Counter[bytes]:
    """How often each task was sent to an executor."""
    return Counter(
        call.place
        for bench in fleet.benches
        for executor in bench.executors
        for call in executor.calls
    )


def check(fleet: Fleet) -> None:
    """Every task has run once, and has one final word."""
    for batch in BATCHES:
        done = [(index, Verb.DONE) for index in range(len(batch.tasks))]
        assert last_words(fleet, batch) == done
    assert set(runs(fleet).values()) == {1}


@pytest.mark.parametrize("seed", range(6))
async def test_every_task_runs_once_however_bells_ring(fleet: Fleet, seed: int) -> None:
    bell = Faulty(Random(seed), lost=0.4, longest_s=20.0, carries=bool(seed % 2))
    for _ in range(3):
        fleet.agent(ear=bell.ear())
    async with fleet.running(settle_s=1.0):
        for batch in BATCHES:
            await fleet.submit(bell, batch)
        await asyncio.sleep(200)
    check(fleet)


async def test_every_task_runs_when_all_rings_are_lost(fleet: Fleet) -> None:
    bell = Faulty(Random(1), lost=1.0, longest_s=0.0, carries=True)
    for _ in range(2):
        fleet.agent(ear=bell.ear())
    async with fleet.running(settle_s=1.0):
        for batch in BATCHES:
            await fleet.submit(bell, batch)
        await asyncio.sleep(200)
    check(fleet)


@pytest.mark.parametrize("after_s", [5.0, 2 * REMOTE.lease_s])
async def test_a_ring_long_after_the_work_is_done_runs_nothing_again(
    fleet: Fleet, after_s: float
) -> None:
    bell = Faulty(Random(2), lost=0.3, longest_s=0.1, carries=True)
    for _ in range(2):
        fleet.agent(ear=bell.ear())
    async with fleet.running(settle_s=1.0):
        for batch in BATCHES:
            await fleet.submit(bell, batch)
        await asyncio.sleep(130 + after_s)
        for batch in BATCHES:
            await bell.announce(Hint(name_of(batch)), partial(seal, batch))
        await asyncio.sleep(10)
    check(fleet)


async def test_what_stale_rings_leave_in_the_queue_is_swept(fleet: Fleet) -> None:
    bell = Faulty(Random(2), lost=0.0, longest_s=0.1, carries=True)
    fleet.agent(ear=bell.ear())
    async with fleet.running(settle_s=1.0):
        await fleet.submit(bell, BATCHES[1])
        await asyncio.sleep(3 * REMOTE.lease_s)
        await bell.announce(Hint(name_of(BATCHES[1])), partial(seal, BATCHES[1]))
        await asyncio.sleep(4 * REMOTE.lease_s + 3 * REMOTE.scan_s)
    assert fleet.raw.list(layout.QUEUE) == []
