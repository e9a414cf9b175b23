from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloudray.protocol import messages as m
from cloudray.protocol.records import Claim, Heartbeat, Task, Verb, unseal
from cloudray.store import layout
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import (
    SETTINGS,
    VALUE,
    Bench,
    Refusing,
    Wire,
    batch_of,
    name_of,
    ref,
)
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import done

SOURCE = batch_of(1, number=50)
LEASE_S = SETTINGS.lease_s


def heartbeat(bench: Bench) -> Heartbeat | None:
    key = layout.agent(bench.agent.id)
    body = bench.store.get(key)
    return None if body is None else unseal(Heartbeat, body, key)


def last_holder(bench: Bench, stem: str) -> str:
    """Whom the last claim of a batch names."""
    number = 1
    while bench.store.get(claim_of(stem, number + 1)) is not None:
        number += 1
    key = claim_of(stem, number)
    body = bench.store.get(key)
    assert body is not None
    return unseal(Claim, body, key).agent


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[asyncio.Event]:
    """Let the agent's clocks run."""
    stop = asyncio.Event()
    task = asyncio.create_task(bench.agent.run(stop))
    await asyncio.sleep(0.01)
    try:
        yield stop
    finally:
        stop.set()
        await task


# -- signs of life -------------------------------------------------------------------------


async def test_an_agent_beats_before_it_claims_anything(bench: Bench) -> None:
    name = bench.publish(batch_of(1))
    async with running(bench):
        beat = heartbeat(bench)
        assert beat is not None
        assert (beat.agent, beat.total["CPU"]) == (bench.agent.id, 20_000)
        await asyncio.sleep(2 * SETTINGS.scan_s)
        assert last_holder(bench, name.stem) == bench.agent.id


async def test_every_beat_differs_from_the_last(bench: Bench) -> None:
    async with running(bench):
        beats = []
        for _ in range(4):
            beat = heartbeat(bench)
            assert beat is not None
            beats.append(beat.beat)
            await asyncio.sleep(2 * SETTINGS.heartbeat_s)
    assert beats == sorted(set(beats))


async def test_a_beat_says_what_is_free_and_whether_there_is_work(bench: Bench) -> None:
    await bench.agent._heartbeat()
    idle = heartbeat(bench)
    await bench.hold(batch_of(1))
    await bench.agent._heartbeat()
    busy = heartbeat(bench)
    assert idle is not None
    assert busy is not None
    assert (idle.idle, idle.free["CPU"]) == (True, 20_000)
    assert (busy.idle, busy.free["CPU"]) == (False, 10_000)


async def test_an_agent_that_stops_leaves_no_sign_of_life_and_no_executors(bench: Bench) -> None:
    async with running(bench):
        await bench.hold(batch_of(1))
    assert heartbeat(bench) is None
    assert bench.workers.all == set()


async def test_a_driver_is_greeted(bench: Bench) -> None:
    driver = Wire()
    protocol = bench.agent.connection_factory()
    protocol.connection_made(driver)
    protocol.data_received(m.pack(m.Attach(b"job.......", want_logs=True)))
    (greeting,) = driver.messages
    assert isinstance(greeting, m.Greeting)
    assert (greeting.agent, greeting.total["CPU"]) == (bench.agent.id, 20_000)


async def test_what_runs_is_published_while_the_clocks_run(bench: Bench) -> None:
    batch = batch_of(1)
    async with running(bench):
        await bench.hold(batch)
        await asyncio.sleep(3 * SETTINGS.commit_s)
        assert bench.words(batch) == [(0, Verb.STARTED)]
        (executor,) = bench.executors
        executor.end(*executor.queue)
        assert bench.journal(batch).complete
        await asyncio.sleep(2 * LEASE_S)
    assert bench.keys(layout.QUEUE) == []


# -- leaving -------------------------------------------------------------------------------


async def test_an_agent_that_drains_gives_back_what_nobody_has_touched(bench: Bench) -> None:
    batch = batch_of(tasks=[Task(0, b"", b"", (ref(SOURCE),))])
    await bench.hold(batch)
    await bench.agent.drain(patience_s=10)
    assert last_holder(bench, name_of(batch).stem) == ""
    assert bench.words(batch) == []
    assert bench.agent.tasks_given_back == 1


async def test_what_cannot_be_given_back_keeps_nothing_else(make_bench: Make) -> None:
    store = Refusing()
    bench = make_bench(store=store)
    first, second = (
        batch_of(number=number, tasks=[Task(0, b"", b"", (ref(SOURCE),))]) for number in (1, 2)
    )
    for batch in (first, second):
        await bench.hold(batch)
    store.refused = claim_of(name_of(first).stem, 2)
    await bench.agent.drain(patience_s=10)
    assert last_holder(bench, name_of(first).stem) == bench.agent.id
    assert last_holder(bench, name_of(second).stem) == ""
    assert bench.agent.tasks_given_back == 1


async def test_it_gives_away_what_has_not_started_and_finishes_what_has(bench: Bench) -> None:
    batch = batch_of(5)
    await bench.hold(batch)
    drain = asyncio.create_task(bench.agent.drain(patience_s=10))
    await asyncio.sleep(1)
    assert [index for index, verb in bench.words(batch) if verb is Verb.MOVED] == [2, 3, 4]
    assert not drain.done()
    for executor in bench.executors:
        executor.end(*executor.queue)
    await drain
    decided = bench.journal(batch).decided
    assert [decided[index] for index in (0, 1)] == [done(0, VALUE), done(1, VALUE)]
    assert bench.agent.tasks_given_back == 3


async def test_it_does_not_wait_for_ever(bench: Bench) -> None:
    await bench.hold(batch_of(1))
    before_s = bench.clock()
    await bench.agent.drain(patience_s=10)
    assert bench.clock() - before_s == 10


async def test_it_claims_nothing_any_more(bench: Bench) -> None:
    await bench.agent.drain(patience_s=10)
    name = bench.publish(batch_of(1))
    bench.discovery.heard((name,))
    await bench.discovery.scan()
    assert bench.store.get(claim_of(name.stem, 1)) is None


# -- pauses --------------------------------------------------------------------------------


async def pause(bench: Bench) -> None:
    """Let more than a lease go by without a heartbeat, as when a lid is closed."""
    await bench.agent._heartbeat()
    await asyncio.sleep(1.5 * LEASE_S)
    await bench.agent._look()


async def test_after_a_pause_nothing_starts_before_the_claims_have_been_looked_at(
    bench: Bench,
) -> None:
    await bench.hold(batch_of(3))
    await pause(bench)
    one, other = bench.executors
    one.end(*one.queue)
    await bench.settle()
    assert one.queue == []
    await bench.agent._heartbeat()
    await bench.settle()
    assert len(one.queue) == 1
    assert len(other.calls) == 1


async def test_what_was_taken_over_meanwhile_is_stopped_and_nothing_else(bench: Bench) -> None:
    lost, kept = batch_of(1), batch_of(1, number=1)
    await bench.hold(lost)
    await bench.hold(kept)
    await pause(bench)
    bench.claim(name_of(lost), 2, "other")
    await bench.agent._heartbeat()
    await bench.settle()
    assert list(bench.holdings.by_batch) == [kept.id]
    assert len(bench.workers.all) == 1
    assert bench.words(lost) == []


async def test_a_slow_heartbeat_is_no_pause(bench: Bench) -> None:
    await bench.agent._heartbeat()
    await asyncio.sleep(0.9 * LEASE_S)
    await bench.agent._look()
    assert not bench.dispatcher.fenced


# -- the others ----------------------------------------------------------------------------


async def test_an_agent_that_died_is_succeeded_and_its_heartbeat_removed(bench: Bench) -> None:
    batch = batch_of(1)
    name = bench.publish(batch)
    bench.beat("other", 1)
    bench.claim(name, 1, "other")
    async with running(bench):
        await asyncio.sleep(4 * LEASE_S)
        assert bench.holdings.has(batch.id)
        assert bench.store.get(layout.agent("other")) is None


async def test_work_that_waits_goes_to_an_agent_that_idles(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    batch = batch_of(4)
    await bench.hold(batch)
    await asyncio.sleep(2.5)
    bench.beat("busy", 1, idle=False)
    bench.beat("leaving", 1, draining=True)
    await bench.agent._mind_the_others()
    assert bench.words(batch) == []
    bench.beat("idle", 1)
    await bench.agent._mind_the_others()
    assert [verb for _, verb in bench.words(batch)] == [Verb.MOVED] * 2


async def test_an_agent_that_is_alone_asks_for_nobodys_heartbeat(bench: Bench) -> None:
    before = bench.ledger.as_dict()
    await bench.agent._mind_the_others()
    assert bench.ledger.subtract(before).priced_requests == 0
