from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from cloudray.protocol.leases import IDLE_LEASES, idle_beat_s
from cloudray.protocol.records import Cluster, Verb
from cloudray.store import Put, layout
from cloudray.store.base import Op
from cloudray.store.counting import S3_STANDARD
from tests.unit.agent.bench import SETTINGS, Bench, Remote, batch_of
from tests.unit.agent.conftest import Make
from tests.unit.agent.test_core import heartbeat, pause, running

#: What a cluster in object storage has.
FAR = Cluster(heartbeat_s=10.0, lease_s=30.0, commit_s=1.0, scan_s=60.0)
HOUR_S = 3600.0


class Watched(Remote):
    """A store that notes when heartbeats are written, by agent, and may keep them waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.beats_s: dict[str, list[float]] = {}
        #: set while writes are answered
        self.open = asyncio.Event()
        self.open.set()

    async def perform_async(self, op: Op) -> object:
        if isinstance(op, Put) and op.key.startswith(layout.AGENTS):
            await self.open.wait()
            agent = op.key.removeprefix(layout.AGENTS)
            now_s = asyncio.get_running_loop().time()
            self.beats_s.setdefault(agent, []).append(now_s)
        return await super().perform_async(op)


MakeFar = Callable[[], Bench]


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def make_far(make_bench: Make, store: Watched) -> MakeFar:
    """Make an agent of a cluster whose requests cost."""
    return lambda: make_bench(store=store, settings=FAR)


def gaps(times_s: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times_s)]


# -- how often -----------------------------------------------------------------------------


async def test_who_holds_nothing_shows_itself_rarely_where_requests_cost(
    make_far: MakeFar, store: Watched
) -> None:
    bench = make_far()
    async with running(bench):
        before = bench.ledger.as_dict()
        await asyncio.sleep(HOUR_S)
        spent = bench.ledger.subtract(before)
    # With scans and listening to the bell; an idle agent is to cost less than $0.002 per hour.
    assert spent.cost_usd(S3_STANDARD) <= 0.0016
    beats = store.beats_s[bench.agent.id]
    assert len(beats) < 1.2 * HOUR_S / idle_beat_s(FAR)
    assert max(gaps(beats)) < IDLE_LEASES * FAR.lease_s / 2


async def test_who_holds_something_beats_three_times_in_a_lease(
    make_far: MakeFar, store: Watched
) -> None:
    bench = make_far()
    async with running(bench):
        await bench.hold(batch_of(1))
        began_s = bench.clock()
        await asyncio.sleep(20 * FAR.lease_s)
    since = [beat_s for beat_s in store.beats_s[bench.agent.id] if beat_s >= began_s]
    assert max(gaps(since)) < FAR.lease_s / 2


async def test_it_beats_as_soon_as_it_holds_something(make_far: MakeFar, store: Watched) -> None:
    bench = make_far()
    async with running(bench):
        await asyncio.sleep(10.5 * FAR.heartbeat_s)
        before = len(store.beats_s[bench.agent.id])
        await bench.hold(batch_of(1))
        await asyncio.sleep(FAR.commit_s)
        assert len(store.beats_s[bench.agent.id]) == before + 1
        beat = heartbeat(bench)
    assert beat is not None
    assert not beat.idle


async def test_that_it_is_free_again_is_said_soon(make_far: MakeFar) -> None:
    bench = make_far()
    async with running(bench):
        await bench.hold(batch_of(1))
        await asyncio.sleep(2 * FAR.heartbeat_s)
        (executor,) = bench.executors
        executor.end(*executor.queue)
        await asyncio.sleep(2 * FAR.heartbeat_s)
        beat = heartbeat(bench)
    assert beat is not None
    assert beat.idle


async def test_that_it_drains_is_said_at_once(make_far: MakeFar) -> None:
    bench = make_far()
    async with running(bench):
        await bench.hold(batch_of(1))
        draining = asyncio.create_task(bench.agent.drain(HOUR_S))
        await asyncio.sleep(1)
        beat = heartbeat(bench)
        assert beat is not None
        assert beat.draining
        (executor,) = bench.executors
        executor.end(*executor.queue)
        await draining


# -- what others make of it ----------------------------------------------------------------


async def test_one_that_holds_nothing_is_not_taken_for_dead_by_who_watches_others(
    make_far: MakeFar, store: Watched
) -> None:
    idle, watching = make_far(), make_far()
    watching.agent._discovery.stopped = False
    batch = batch_of(1)
    async with running(idle), running(watching):
        # Somebody dies who holds a batch, so that heartbeats are looked at.
        idle.agent._discovery.stopped = watching.agent._discovery.stopped = True
        name = watching.publish(batch)
        watching.claim(name, 1, "dead")
        for _ in range(40):
            await asyncio.sleep(FAR.lease_s / 4)
            await watching.discovery.scan()
            await watching.agent._mind_the_others()
            assert store.get(layout.agent(idle.agent.id)) is not None


async def test_the_heartbeat_of_one_that_died_idle_goes_in_the_end(
    make_far: MakeFar, store: Watched
) -> None:
    bench = make_far()
    bench.beat("dead", 1)
    async with running(bench):
        await asyncio.sleep(HOUR_S / 3)
        assert store.get(layout.agent("dead")) is None


# -- pauses --------------------------------------------------------------------------------


async def test_a_pause_with_nothing_held_is_none(bench: Bench) -> None:
    await pause(bench)
    assert not bench.dispatcher.fenced
    await bench.hold(batch_of(1))
    assert len(bench.executors) == 1


async def test_while_the_store_is_away_for_a_lease_nothing_starts(
    make_bench: Make, store: Watched
) -> None:
    bench = make_bench(cpus=1, store=store)
    batch = batch_of(2)
    async with running(bench):
        await bench.hold(batch)
        (executor,) = bench.executors
        store.open.clear()
        await asyncio.sleep(2 * SETTINGS.lease_s)
        executor.end(*executor.queue)
        await bench.settle()
        assert executor.places == [0]
        store.open.set()
        await asyncio.sleep(SETTINGS.lease_s)
        assert executor.places == [0, 1]


async def test_nothing_starts_between_the_end_of_a_pause_and_the_first_look(bench: Bench) -> None:
    """An executor's word may be the first thing that an agent hears when it goes on."""
    batch = batch_of(3)
    await bench.agent._heart.begin()
    await bench.hold(batch)
    await asyncio.sleep(1.5 * SETTINGS.lease_s)
    one, _ = bench.executors
    one.end(*one.queue)
    await bench.settle()
    assert one.queue == []


async def test_a_claim_that_was_under_way_in_a_pause_is_looked_at_too(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    await bench.agent._heart.begin()
    batch = batch_of(1)
    name = bench.publish(batch)
    bench.discovery.offer(name)
    await asyncio.sleep(0)
    # The claim has been sent, and the machine sleeps before anything is heard of it.
    assert batch.id in bench.discovery.claiming
    bench.claim(name, 2, "other")
    bench.dispatcher.fenced = True
    await bench.agent._heartbeat()
    await bench.settle()
    assert not bench.holdings.has(batch.id)
    assert bench.executors == []


async def test_what_is_not_taken_over_goes_on_as_if_nothing_had_been(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    await pause(bench)
    await bench.agent._heartbeat()
    (executor,) = bench.executors
    executor.end(*executor.queue)
    await bench.settle()
    assert [word.verb for word in bench.journal(batch).decided.values()] == [Verb.DONE]


async def test_many_claims_are_looked_at_in_few_requests(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    for number in range(16):
        bench.discovery.offer(bench.publish(batch_of(1, number=number)))
    for _ in range(4):
        await bench.settle()
    assert len(bench.holdings.by_batch) == 16
    bench.dispatcher.fenced = True
    began_s = bench.clock()
    await bench.agent._heartbeat()
    # The beat, and a round of reading: the store takes 10 ms each time.
    assert bench.clock() - began_s < 0.05
