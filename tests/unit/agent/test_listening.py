"""Agents that listen to a bell, on a virtual clock: what that costs, and how soon they work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudray import platform
from cloudray.bells.base import Doorbell, Ear, Heard
from cloudray.bells.bucket import BucketBell
from cloudray.bells.hints import Hint, seal_hints
from cloudray.bells.pace import FIRST_S, LONGEST_S, PART, REST_S
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch, Cluster, Verb, seal
from cloudray.store import Counting, Ledger, MemoryStore, Op, Reliable, drive_async, layout
from cloudray.store.base import Create, GetIfChanged, List, Tagged
from cloudray.store.layout import claim_of
from cloudray.timing import REMOTE
from tests.unit.agent.bench import Bench, Executor, Wire, batch_of, name_of, store_job
from tests.unit.agent.virtual import VirtualLoop

SETTINGS = Cluster(REMOTE.heartbeat_s, REMOTE.lease_s, REMOTE.commit_s, REMOTE.scan_s)
#: What one request takes, in virtual seconds.
L = 0.1
#: What the played executors may take, and rounding.
NEARLY = 0.02 * L


class Sent(msgspec.Struct):
    """A request, with the virtual time at which it began and was answered."""

    op: Op
    began_s: float
    ended_s: float
    answer: Any


class Bucket(MemoryStore):
    """A store where each request takes as long as the other, and which remembers them."""

    inline = False

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.sent: list[Sent] = []
        self._loop = loop

    async def perform_async(self, op: Op) -> Any:
        began_s = self._loop.time()
        # It happens in the middle of its time.
        await asyncio.sleep(L / 2)
        answer = self.perform(op)
        await asyncio.sleep(L / 2)
        self.sent.append(Sent(op, began_s, self._loop.time(), answer))
        return answer


class Fleet:
    """Agents of one cluster, whose executors end each call as soon as they get it."""

    def __init__(self, tmp_path: Path, loop: VirtualLoop) -> None:
        self.raw = Bucket(loop)
        self.ledger = Ledger()
        self.store = Reliable(Counting(self.raw, self.ledger))
        self.loop = loop
        self.benches: list[Bench] = []
        self._tmp_path = tmp_path
        self._stop = asyncio.Event()

    def agent(self, cpus: float = 2.0, ear: Ear | None = None) -> Bench:
        bench = Bench(self.raw, self._tmp_path, self.loop, cpus, SETTINGS)
        # Each has process numbers of its own.
        bench.stage.requests.extend([None] * 1000 * len(self.benches))  # type: ignore[arg-type]
        if ear is not None:
            bench.agent._listening._ear = ear
        self.benches.append(bench)
        return bench

    def bell(self) -> BucketBell:
        return BucketBell(self.store, self.loop.time)

    async def submit(self, bell: Doorbell, batch: Batch) -> None:
        """Do what a driver does."""
        store_job(self.raw, batch)
        hint = Hint(name_of(batch))
        beside = asyncio.create_task(bell.announce(hint, lambda: seal(batch)))
        await drive_async(self.store, claims.submit(hint.name, batch))
        await beside
        self.ringing = asyncio.create_task(bell.ring([hint]))
        await asyncio.sleep(0)
        await bell.flush()

    def said(self, batch: Batch) -> list[tuple[int, Verb]]:
        return self.benches[0].words(batch)

    @asynccontextmanager
    async def running(self, settle_s: float = 10.0) -> AsyncIterator[None]:
        """Let the agents' clocks run."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(bench.agent.run(stop)) for bench in self.benches]
        await asyncio.sleep(settle_s)
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def until(self, over: Callable[[], bool]) -> None:
        while not over():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(NEARLY)


class Prompt(Wire):
    """The wire to an executor that ends each call as soon as it has got it."""

    executor: Executor

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        super().write(data)
        calls = self.executor.queue
        if calls:
            asyncio.get_running_loop().call_soon(self.executor.end, *calls)


@pytest.fixture
def fleet(tmp_path: Path, loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, loop)
    begin = Executor.connect

    def connect(executor: Executor, protocol: asyncio.Protocol) -> None:
        executor.wire = Prompt()
        executor.wire.executor = executor
        begin(executor, protocol)

    def stage_of(pid: int) -> Any:
        return next(
            bench.stage
            for bench in fleet.benches
            if any(executor.pid == pid for executor in bench.executors)
        )

    monkeypatch.setattr(Executor, "connect", connect)
    monkeypatch.setattr(os, "killpg", lambda pid, how: stage_of(pid).killpg(pid, how))
    monkeypatch.setattr(platform, "exit_descriptor", lambda pid: stage_of(pid).exit_descriptor(pid))
    yield fleet
    for bench in fleet.benches:
        bench.close()


def tick(number: int, size: int = 1) -> Batch:
    return batch_of(size, number=number)


# -- what it costs -------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 2])
async def test_an_idle_agent_costs_a_fifth_of_a_cent_an_hour_at_most(
    fleet: Fleet, others: int
) -> None:
    agents = [fleet.agent() for _ in range(1 + others)]
    async with fleet.running(settle_s=60.0):
        before = agents[0].ledger.as_dict()
        await asyncio.sleep(600)
        spent = agents[0].ledger.subtract(before)
    assert 6 * spent.cost_usd() <= 0.002
    assert spent.as_dict()["list"] <= 2 * 600 / (0.9 * REMOTE.scan_s)
    assert spent.as_dict()["put"] <= 600 / (0.9 * REMOTE.scan_s)


async def test_a_full_agent_does_not_listen(fleet: Fleet) -> None:
    agent = fleet.agent()
    async with fleet.running():
        agent.dispatcher.fenced = True
        await asyncio.sleep(10)
        before = len(fleet.raw.sent)
        await asyncio.sleep(30)
    assert not any(isinstance(sent.op, GetIfChanged) for sent in fleet.raw.sent[before:-1])


#: Shorter than the time after which looks become rarer.
SPELL_S = 0.5 * FIRST_S / PART


async def test_after_work_an_agent_listens_often_for_a_while(fleet: Fleet) -> None:
    fleet.agent()
    async with fleet.running():
        await fleet.submit(fleet.bell(), tick(1))
        await fleet.until(lambda: bool(fleet.said(tick(1))))
        before = len(fleet.raw.sent)
        await asyncio.sleep(SPELL_S)
        often = sum(isinstance(sent.op, GetIfChanged) for sent in fleet.raw.sent[before:])
        await asyncio.sleep(4 * LONGEST_S / PART)
        before = len(fleet.raw.sent)
        await asyncio.sleep(SPELL_S)
        rarely = sum(isinstance(sent.op, GetIfChanged) for sent in fleet.raw.sent[before:])
    assert often > SPELL_S / (2 * (FIRST_S + L))
    assert rarely <= 2 * SPELL_S / REST_S + 1


# -- the way of one task -------------------------------------------------------------------


async def test_a_task_takes_four_requests_and_the_waits_of_two_polls(fleet: Fleet) -> None:
    agent = fleet.agent()
    bell = fleet.bell()
    async with fleet.running():
        # So that the function is known and its executor has started.
        await fleet.submit(bell, tick(1))
        await fleet.until(lambda: bool(fleet.said(tick(1))))
        await asyncio.sleep(1)
        begun_s, first = fleet.loop.time(), len(fleet.raw.sent)
        await fleet.submit(bell, tick(2))
        rung_s = fleet.loop.time()
        await fleet.until(lambda: bool(fleet.said(tick(2))))
        await asyncio.sleep(L)
    sent = fleet.raw.sent[first:]
    heard_s = next(each.ended_s for each in sent if isinstance(each.answer, Tagged))
    published_s = next(
        each.ended_s for each in sent if isinstance(each.op, Create) and "/results/" in each.op.key
    )
    # The batch, then the bell, which was read meanwhile; and the claim, its two reads beside it,
    # then the journal. Between them, and before the driver's read, are the polls.
    assert rung_s - begun_s == pytest.approx(2 * L, abs=NEARLY)
    assert published_s - heard_s == pytest.approx(2 * L, abs=2 * NEARLY)
    assert agent.holdings.by_batch == {}


class Post(Doorbell, Ear):
    """A queue service: a message is there when it was sent, and its answer takes as long."""

    shared = False

    def __init__(self, *, carries: bool = True) -> None:
        self.messages: asyncio.Queue[Heard] = asyncio.Queue()
        self._carries = carries

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:
        await asyncio.sleep(L / 2)
        self.messages.put_nowait(Heard(hint, body() if self._carries else b""))
        await asyncio.sleep(L / 2)

    async def ring(self, hints: Sequence[Hint]) -> None:
        pass

    async def hear(self, room: int) -> list[Heard] | None:
        # A long poll: its request is there already.
        heard = await self.messages.get()
        await asyncio.sleep(L / 2)
        return [heard]


async def test_with_a_queue_a_task_takes_four_requests_from_end_to_end(fleet: Fleet) -> None:
    post = Post()
    fleet.agent(ear=post)
    async with fleet.running():
        await fleet.submit(post, tick(1))
        await fleet.until(lambda: bool(fleet.said(tick(1))))
        await asyncio.sleep(1)
        begun_s, first = fleet.loop.time(), len(fleet.raw.sent)
        await fleet.submit(post, tick(2))
        await fleet.until(lambda: bool(fleet.said(tick(2))))
        await asyncio.sleep(L)
    published_s = next(
        each.ended_s
        for each in fleet.raw.sent[first:]
        if isinstance(each.op, Create) and "/results/" in each.op.key
    )
    # The message, the claim, the journal; the driver's read of that is the fourth.
    assert published_s - begun_s <= 3 * L + 2 * NEARLY
    assert published_s - begun_s > 2.5 * L


# -- what is rung for, and what follows a ring in vain ---------------------------------------


class Rung(Doorbell):
    """A bell that remembers its rings."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    async def ring(self, hints: Sequence[Hint]) -> None:
        self.hints += hints


@pytest.fixture
def rung(bench: Bench) -> Rung:
    bench.agent._bell = Rung()
    return bench.agent._bell


async def test_a_batch_that_is_given_back_is_rung_for(bench: Bench, rung: Rung) -> None:
    running = tick(1, 2)
    held = await bench.hold(running)
    await bench.hold(waiting := tick(2, 2))
    assert held.running
    draining = asyncio.create_task(bench.agent.drain(10.0))
    await bench.settle()
    assert Hint(name_of(waiting), 3) in rung.hints
    for executor in bench.executors:
        executor.end(*executor.queue)
    await draining


async def test_work_that_is_given_away_is_rung_for(bench: Bench, rung: Rung) -> None:
    await bench.hold(tick(1, 6))
    await asyncio.sleep(2.5)
    bench.charity.give()
    await bench.settle()
    (hint,) = rung.hints
    assert (hint.number, hint.name.size) == (1, 2)
    assert bench.keys(hint.name.stem) == [claim_of(hint.name.stem, 0)]


@pytest.mark.parametrize(("others", "size", "rings"), [(1, 200, 1), (1, 1, 0), (0, 200, 0)])
async def test_what_an_executor_submits_is_rung_for_if_others_should_take_it(
    bench: Bench, rung: Rung, others: int, size: int, rings: int
) -> None:
    parent, child = tick(1, size), tick(2)
    await bench.hold(parent)
    bench.agent._others.ids = {f"other {number}" for number in range(others)}
    bench.discovery.others = others
    store_job(bench.store, child)
    name = name_of(child)
    bench.executors[0].say(m.Submit(name.klass, name.priority, 0, child))
    await bench.settle()
    assert [hint.name for hint in rung.hints] == [name] * rings


async def test_a_ring_in_vain_makes_an_agent_scan(fleet: Fleet) -> None:
    agent = fleet.agent()
    async with fleet.running():
        # Its name is lost, as when two ring at once.
        store_job(fleet.raw, tick(1))
        await drive_async(fleet.store, claims.submit(name_of(tick(1)), tick(1)))
        fleet.raw.put(layout.BELL, seal_hints([]))
        began_s = fleet.loop.time()
        await fleet.until(lambda: bool(fleet.said(tick(1))))
        assert fleet.loop.time() - began_s < REMOTE.scan_s / 2
    assert agent.agent.batches_taken == 1


async def test_rings_in_vain_make_an_agent_scan_only_so_often(fleet: Fleet) -> None:
    fleet.agent()
    async with fleet.running():
        before = len(fleet.raw.sent)
        for _ in range(100):
            fleet.raw.put(layout.BELL, seal_hints([]))
            await asyncio.sleep(0.2)
        scans = [each for each in fleet.raw.sent[before:] if isinstance(each.op, List)]
    assert 2 <= len(scans) <= 21


async def test_agents_hear_of_most_batches_without_a_listing(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.agent()
    bell = fleet.bell()
    batches = [tick(number) for number in range(20)]
    async with fleet.running():
        before = len(fleet.raw.sent)
        for batch in batches:
            await fleet.submit(bell, batch)
            await asyncio.sleep(1)
        sent = fleet.raw.sent[before:]
    assert all(fleet.said(batch) for batch in batches)
    assert sum(isinstance(each.op, List) for each in sent) < len(batches)


async def test_the_heartbeat_of_an_agent_that_died_idle_is_removed_in_time(fleet: Fleet) -> None:
    agent = fleet.agent()
    agent.beat("dead", 1)
    async with fleet.running(settle_s=5 * REMOTE.scan_s):
        assert fleet.raw.get(layout.agent("dead")) is not None
        assert agent.discovery.others == 1
        await asyncio.sleep(10 * REMOTE.scan_s)
        assert fleet.raw.get(layout.agent("dead")) is None
    assert agent.discovery.others == 0
