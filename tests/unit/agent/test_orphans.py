from __future__ import annotations

import asyncio
import sys

import pytest

from cloudray.agent.held import NOBODY
from cloudray.agent.orphans import is_orphan
from cloudray.exceptions import OwnerDiedError
from cloudray.protocol import messages as m
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import (
    ALONE,
    FORCE,
    Batch,
    Entry,
    Heartbeat,
    Parent,
    Verb,
    Word,
    seal,
)
from cloudray.store import layout
from cloudray.store.layout import QueueName
from cloudray.values.outcomes import load
from tests.unit.agent.bench import SETTINGS, Bench, batch_of, name_of, shape_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import cancelled, done, failed, started

PARENT = batch_of(1, number=60)
ATTEMPT = Parent(PARENT.id, 0, 1, 0)
CHILD = batch_of(1, parent=ATTEMPT, depth=1)
#: Asks for more than the machine has, and so does its class.
LARGE = batch_of(1, shape_of(cpus=64), parent=ATTEMPT, depth=1)


def errors(bench: Bench, batch: Batch) -> list[object]:
    decided = bench.journal(batch).decided
    return [load(decided[index].values[0]) for index in sorted(decided)]


def large_name() -> QueueName:
    tag = f"py{sys.version_info[0]}{sys.version_info[1]}"
    return QueueName(f"{tag}-cpu64-m0", 5, LARGE.id, 1, 0)


# -- who is one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "orphaned"),
    [((), True), ((FORCE,), True), ((ALONE,), False), ((FORCE, ALONE), False)],
)
def test_children_of_a_cancelled_task_are_orphans_unless_it_was_cancelled_alone(
    flags: tuple[bytes, ...], orphaned: bool
) -> None:
    journal = Journal(PARENT.id)
    journal.apply(Entry(0, (Word(0, Verb.CANCELLED, flags),)))
    assert is_orphan(ATTEMPT, journal) is orphaned


def test_whose_submitter_is_the_driver_is_none() -> None:
    journal = Journal(PARENT.id)
    journal.apply(Entry(2, (done(0),)))
    assert not is_orphan(None, journal)


# -- at the claim --------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True])
async def test_an_orphan_is_not_even_begun(make_bench: Make, remote: bool) -> None:
    bench = make_bench(remote=remote)
    bench.write(PARENT, done(0), claim=2)
    bench.discovery.offer(bench.publish(CHILD))
    await bench.settle()
    assert bench.executors == []
    (error,) = errors(bench, CHILD)
    assert isinstance(error, OwnerDiedError)
    assert bench.store.get(layout.claim_of(name_of(CHILD).stem, 0)) is None


async def test_a_child_whose_parent_still_runs_elsewhere_is_begun(bench: Bench) -> None:
    bench.write(PARENT, started(0), claim=1)
    await bench.hold(CHILD)
    assert len(bench.executors) == 1


async def test_a_child_of_what_is_held_here_costs_no_look(bench: Bench) -> None:
    await bench.hold(PARENT)
    name = bench.publish(CHILD)
    before = bench.ledger.as_dict()
    bench.discovery.offer(name, urgent=True)
    await bench.settle()
    assert bench.holdings.has(CHILD.id)
    # Its entry, and its journal.
    assert bench.ledger.subtract(before).as_dict()["get"] == 2


async def test_a_child_of_what_was_cancelled_here_is_not_begun(bench: Bench) -> None:
    two = batch_of(2, number=60)
    await bench.hold(two)
    bench.write(two, cancelled(0))
    bench.holdings.look_at(two.id)
    bench.discovery.offer(bench.publish(CHILD), urgent=True)
    await bench.settle()
    assert [type(error) for error in errors(bench, CHILD)] == [OwnerDiedError]


# -- while it runs -------------------------------------------------------------------------


async def look_at_parents(bench: Bench) -> None:
    for _ in range(7):
        await asyncio.sleep(SETTINGS.commit_s)
        bench.holdings.tick()
        await bench.settle()


@pytest.mark.parametrize("force", [False, True])
async def test_children_are_stopped_as_their_parent_was(bench: Bench, force: bool) -> None:
    await bench.hold(CHILD)
    (executor,) = bench.executors
    executor.begin(*executor.calls)
    bench.write(PARENT, Word(0, Verb.CANCELLED, (FORCE,) if force else ()))
    await look_at_parents(bench)
    assert (bench.workers.all == set()) is force
    assert len(executor.of(m.Interrupt)) == (0 if force else 1)


async def test_children_of_a_task_that_was_cancelled_alone_go_on(bench: Bench) -> None:
    await bench.hold(CHILD)
    bench.write(PARENT, Word(0, Verb.CANCELLED, (ALONE,)))
    await look_at_parents(bench)
    (executor,) = bench.executors
    assert executor.of(m.Interrupt) == []
    executor.end(*executor.queue)
    assert bench.journal(CHILD).decided[0].verb is Verb.DONE


async def test_grandchildren_go_with_their_parents(bench: Bench) -> None:
    grandchild = batch_of(1, number=5, parent=Parent(CHILD.id, 0, 1, 0), depth=2)
    await bench.hold(CHILD)
    await bench.hold(grandchild)
    bench.write(PARENT, cancelled(0))
    await look_at_parents(bench)
    await look_at_parents(bench)
    assert [type(error) for error in errors(bench, grandchild)] == [OwnerDiedError]


# -- where nobody can run it ---------------------------------------------------------------


async def scan(bench: Bench) -> None:
    await bench.agent._heartbeat()
    await bench.discovery.scan()
    await bench.agent._orphans.look()


def publish_large(bench: Bench) -> None:
    bench.publish(batch_of(1, number=7))  # with its job and function
    bench.store.put(layout.claim_of(large_name().stem, 0), seal(LARGE))


async def test_an_orphan_that_fits_nowhere_ends_all_the_same(bench: Bench) -> None:
    publish_large(bench)
    bench.write(PARENT, failed(0), claim=2)
    await scan(bench)
    assert [type(error) for error in errors(bench, LARGE)] == [OwnerDiedError]
    assert bench.store.get(layout.claim_of(large_name().stem, 0)) is None


async def test_what_fits_nowhere_waits_while_its_parent_lives(bench: Bench) -> None:
    publish_large(bench)
    bench.write(PARENT, started(0), claim=1)
    await scan(bench)
    assert bench.said(LARGE) == []
    bench.write(PARENT, Word(0, Verb.FAILED, (b"",), NOBODY), claim=1)
    await scan(bench)
    assert [type(error) for error in errors(bench, LARGE)] == [OwnerDiedError]


async def test_what_the_driver_submitted_is_read_once(bench: Bench) -> None:
    name = large_name()
    bench.publish(batch_of(1, number=7))
    bench.store.put(layout.claim_of(name.stem, 0), seal(batch_of(1, shape_of(cpus=64))))
    await scan(bench)
    before = bench.ledger.as_dict()
    await scan(bench)
    spent = bench.ledger.subtract(before).as_dict()
    assert spent["get"] == 1  # the heartbeats


async def test_who_can_run_it_looks_after_it_alone(bench: Bench) -> None:
    publish_large(bench)
    bench.write(PARENT, failed(0), claim=2)
    total = {"CPU": 640_000, "memory": 1 << 60}
    bench.store.put(layout.agent("large"), seal(Heartbeat("large", 1, "host", 1, "", total, total)))
    await scan(bench)
    assert bench.said(LARGE) == []


async def test_agents_take_turns(bench: Bench) -> None:
    publish_large(bench)
    for number in range(20):
        bench.beat(f"other{number}", 1)
    looks = 0
    for _ in range(100):
        before = bench.ledger.as_dict()
        await bench.agent._scan()
        looks += bench.ledger.subtract(before).as_dict()["get"] > 0
    assert 0 < looks < 25


def test_the_python_version_of_these_batches_is_ours() -> None:
    assert layout.parse_stem(large_name().stem) == large_name()
