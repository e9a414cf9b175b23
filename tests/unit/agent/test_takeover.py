"""How long it takes until somebody notices, in the times of the protocol, on a store far away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudray.agent.holdings import LOOK_COMMITS
from cloudray.protocol.records import Heartbeat, Parent, Verb, seal
from cloudray.store import Op, layout
from cloudray.store.base import List
from tests.unit.agent.bench import Bench, Remote, batch_of
from tests.unit.agent.conftest import Make
from tests.unit.agent.test_core import running
from tests.unit.agent.test_heart import FAR
from tests.unit.protocol.builders import cancelled, done

#: The store takes 10 ms for each request, of which each of these takes a few.
REQUESTS_S = 1.0
PARENT = batch_of(1, number=60)


@pytest.fixture
def bench(make_bench: Make) -> Bench:
    return make_bench(remote=True, settings=FAR)


class Slow(Remote):
    """A store that takes so many seconds to list."""

    def __init__(self, listing_s: float) -> None:
        super().__init__()
        self._listing_s = listing_s

    async def perform_async(self, op: Op) -> Any:
        if isinstance(op, List):
            await asyncio.sleep(self._listing_s)
        return await super().perform_async(op)


async def seconds_until(bench: Bench, condition: Callable[[], bool], limit_s: float) -> float:
    """How long it takes until something is so; fails after `limit_s`."""
    began_s = bench.clock()
    while not condition():
        assert bench.clock() - began_s <= limit_s
        await asyncio.sleep(0.05)
    return bench.clock() - began_s


async def test_what_a_dead_agent_held_is_taken_a_lease_after_it_was_seen(bench: Bench) -> None:
    batch = batch_of(1)
    async with running(bench):
        name = bench.publish(batch)
        bench.beat("dead", 1)
        bench.claim(name, 1, "dead")
        await bench.discovery.scan()
        taken_s = await seconds_until(bench, lambda: bench.holdings.has(batch.id), 2 * FAR.lease_s)
    # The first look after that only learns what is there; each quarter of a lease there is one.
    assert FAR.lease_s <= taken_s <= 1.7 * FAR.lease_s + REQUESTS_S


async def test_the_dead_are_found_though_each_look_takes_long(make_bench: Make) -> None:
    bench = make_bench(store=Slow(FAR.lease_s / 6), settings=FAR)
    batch = batch_of(1)
    async with running(bench):
        name = bench.publish(batch)
        bench.beat("dead", 1)
        bench.claim(name, 1, "dead")
        await bench.discovery.scan()
        await seconds_until(bench, lambda: bench.holdings.has(batch.id), 4 * FAR.lease_s)


async def test_an_agent_that_beats_keeps_what_it_holds(bench: Bench) -> None:
    batch = batch_of(1)
    async with running(bench):
        name = bench.publish(batch)
        bench.claim(name, 1, "other")
        for beat in range(60):
            bench.beat("other", beat, idle=False)
            await asyncio.sleep(FAR.heartbeat_s)
        assert not bench.holdings.has(batch.id)


async def test_what_was_given_back_is_taken_at_the_next_scan(bench: Bench) -> None:
    batch = batch_of(1)
    async with running(bench):
        name = bench.publish(batch)
        bench.claim(name, 1, "other")
        bench.claim(name, 2, "")
        await seconds_until(bench, lambda: bench.holdings.has(batch.id), 1.2 * FAR.scan_s)


async def test_a_cancel_is_noticed_within_a_few_commits(bench: Bench) -> None:
    batch = batch_of(1)
    async with running(bench):
        await bench.hold(batch)
        (executor,) = bench.executors
        bench.write(batch, cancelled(0))
        limit_s = (LOOK_COMMITS + 2) * FAR.commit_s + REQUESTS_S
        await seconds_until(bench, lambda: not bench.holdings.has(batch.id), limit_s)
        assert len(executor.calls) == 1


async def test_an_orphan_is_noticed_within_a_few_commits(bench: Bench) -> None:
    child = batch_of(1, parent=Parent(PARENT.id, 0, 1, 0), depth=1)
    async with running(bench):
        await bench.hold(child)
        bench.write(PARENT, done(0), claim=2)
        limit_s = (LOOK_COMMITS + 2) * FAR.commit_s + REQUESTS_S
        await seconds_until(bench, lambda: not bench.holdings.has(child.id), limit_s)
    assert bench.journal(child).decided[0].verb is Verb.FAILED


async def test_work_that_waits_is_given_away_within_half_a_lease(make_bench: Make) -> None:
    bench = make_bench(cpus=1, remote=True, settings=FAR)
    batch = batch_of(4)
    async with running(bench):
        await bench.hold(batch)
        bench.beat("idle", 1)
        await seconds_until(
            bench,
            lambda: [verb for _, verb in bench.words(batch)].count(Verb.MOVED) == 2,
            FAR.lease_s / 2,
        )


async def test_of_many_agents_only_some_are_asked_whether_they_idle(make_bench: Make) -> None:
    bench = make_bench(cpus=1, settings=FAR)
    await bench.hold(batch_of(4))
    await asyncio.sleep(2.5)
    for number in range(200):
        bench.beat(f"busy{number}", 1, idle=False)
    before = bench.ledger.as_dict()
    await bench.agent._mind_the_others()
    assert bench.ledger.subtract(before).as_dict()["get"] == 16


async def test_the_one_that_idles_among_many_is_found(make_bench: Make) -> None:
    bench = make_bench(cpus=1, settings=FAR)
    batch = batch_of(4)
    await bench.hold(batch)
    await asyncio.sleep(2.5)
    bench.beat("idle", 1)
    for beat in range(4):
        for number in range(200):
            busy = Heartbeat(f"busy{number}", beat, "host", 1, "", {}, {}, False, False)
            bench.store.put(layout.agent(busy.agent), seal(busy))
        await bench.agent._mind_the_others()
        await asyncio.sleep(1.5 * FAR.heartbeat_s)
    assert Verb.MOVED in [verb for _, verb in bench.words(batch)]
