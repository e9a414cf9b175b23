from __future__ import annotations

import asyncio

import pytest

from cloudray import ids
from cloudray.agent.held import Held
from cloudray.protocol.demand import class_of
from cloudray.protocol.records import Batch, Task, Verb, unseal
from cloudray.store import layout
from cloudray.store.layout import QueueName
from tests.unit.agent.bench import Bench, Refusing, batch_of, index_of, shape_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import cancelled, started


@pytest.fixture
def bench(make_bench: Make) -> Bench:
    """An agent with a single CPU."""
    return make_bench(cpus=1)


def queued(bench: Bench, *known: Batch) -> dict[QueueName, Batch]:
    """The batches in the queue, but for those that are known."""
    found = {}
    for key in bench.keys(layout.QUEUE):
        parsed = layout.parse_queue(key)
        assert parsed is not None
        stem, number = parsed
        name = layout.parse_stem(stem)
        body = bench.store.get(key)
        assert name is not None
        assert body is not None
        if number == 0 and name.batch not in {batch.id for batch in known}:
            found[name] = unseal(Batch, body, key)
    return found


async def hold_and_wait(bench: Bench, batch: Batch, wait_s: float = 2.5) -> Held:
    held = await bench.hold(batch)
    await asyncio.sleep(wait_s)
    return held


async def test_tasks_that_wait_long_for_a_slot_are_noticed(bench: Bench) -> None:
    held = await hold_and_wait(bench, batch_of(4))
    assert bench.charity.waiting() == {held: [1, 2, 3]}


async def test_tasks_that_have_just_become_ready_are_not_given_away(bench: Bench) -> None:
    await hold_and_wait(bench, batch_of(4), wait_s=1.5)
    assert bench.charity.waiting() == {}
    bench.charity.give()
    assert queued(bench, batch_of(4)) == {}


async def test_the_later_half_of_what_waits_is_given_away(bench: Bench) -> None:
    batch = batch_of(5)
    await hold_and_wait(bench, batch)
    bench.charity.give()
    ((name, part),) = queued(bench, batch).items()
    assert [task.arguments for task in part.tasks] == [b"3", b"4"]
    assert [task.origin for task in part.tasks] == [
        batch.id + index.to_bytes(2, "big") for index in (3, 4)
    ]
    assert (name.klass, name.priority, name.size) == (class_of({"CPU": 10_000}), 5, 2)


async def test_the_journal_says_where_tasks_went(bench: Bench) -> None:
    batch = batch_of(3)
    await hold_and_wait(bench, batch)
    bench.charity.give()
    (part,) = queued(bench, batch).values()
    (word,) = [word for word in bench.said(batch) if word.verb is Verb.MOVED]
    assert (word.index, word.values) == (2, (part.id + b"\0\0",))


async def test_tasks_that_were_given_away_do_not_run_here(bench: Bench) -> None:
    await hold_and_wait(bench, batch_of(4))
    bench.charity.give()
    (executor,) = bench.executors
    while executor.queue:
        executor.end(*executor.queue)
        await bench.settle()
    assert [index_of(call) for call in executor.calls] == [0, 1]
    assert bench.holdings.by_batch == {}


async def test_while_they_leave_they_do_not_start_here(make_bench: Make) -> None:
    bench = make_bench(cpus=1, remote=True)
    await bench.hold(batch_of(4))
    await asyncio.sleep(3)
    (executor,) = bench.executors
    bench.charity.give()
    executor.end(*executor.queue)
    await asyncio.sleep(0)
    executor.end(*executor.queue)
    await asyncio.sleep(0)
    assert executor.places == [0, 1]
    await asyncio.sleep(1)
    assert executor.places == [0, 1]


async def test_a_batch_whose_journal_is_being_written_gives_nothing(bench: Bench) -> None:
    held = await hold_and_wait(bench, batch_of(4))
    held.busy = True
    assert bench.charity.waiting() == {}


async def test_a_task_that_has_run_before_stays(bench: Bench) -> None:
    batch = batch_of(4)
    bench.write(batch, started(3), claim=1)
    await hold_and_wait(bench, batch_of(4), wait_s=0)
    held = bench.holdings.by_batch[batch.id]
    await asyncio.sleep(2.5)
    assert bench.charity.waiting() == {held: [1, 2]}


async def test_parts_of_one_agent_never_share_an_id(bench: Bench) -> None:
    batch = batch_of(8)
    await hold_and_wait(bench, batch)
    bench.charity.give()
    await asyncio.sleep(1)
    bench.charity.give()
    parts = queued(bench, batch).values()
    assert len({part.id for part in parts}) == len(parts) == 2
    assert {ids.job_of(part.id) for part in parts} == {ids.job_of(batch.id)}


async def test_tasks_of_different_classes_leave_in_batches_of_their_own(bench: Bench) -> None:
    shapes = (shape_of("one"), shape_of("none", cpus=0.0))
    tasks = tuple(Task(index % 2, b"%d" % index) for index in range(6))
    mixed = Batch(batch_of(1).id, shapes, tasks)
    held = await bench.hold(mixed)
    bench.charity.give_everything()
    parts = queued(bench, mixed)
    for name, part in parts.items():
        assert {class_of(shape.demand) for shape in part.shapes} == {name.klass}
    assert held.running.keys() | {
        index for index, word in held.journal.decided.items() if word.verb is Verb.MOVED
    } == set(range(6))


async def test_an_agent_that_leaves_gives_everything_away_that_has_not_started(
    bench: Bench,
) -> None:
    batch = batch_of(4)
    await bench.hold(batch)
    bench.charity.give_everything()
    ((name, _),) = queued(bench, batch).items()
    assert name.size == 3


async def test_tasks_that_could_not_leave_run_here(make_bench: Make) -> None:
    store = Refusing()
    bench = make_bench(cpus=1, store=store)
    await hold_and_wait(bench, batch_of(4))
    store.refused = layout.QUEUE
    bench.charity.give()
    (executor,) = bench.executors
    while executor.queue:
        executor.end(*executor.queue)
        await bench.settle()
    assert sorted(executor.places) == [0, 1, 2, 3]


async def test_a_task_that_was_cancelled_meanwhile_stays_cancelled(bench: Bench) -> None:
    batch = batch_of(3)
    held = await hold_and_wait(bench, batch)
    bench.write(batch, cancelled(2))
    bench.charity.give()
    assert held.journal.decided[2].verb is Verb.CANCELLED
    assert bench.journal(batch).decided[2].verb is Verb.CANCELLED


async def test_a_task_that_a_zombie_was_permitted_to_run_is_not_forgotten(bench: Bench) -> None:
    once = batch_of(1, shape_of(max_retries=0), number=1)
    await bench.hold(batch_of(1))
    await hold_and_wait_for(bench, once)
    bench.write(once, started(0), claim=1)
    bench.charity.give()
    (executor,) = bench.executors
    executor.end(*executor.queue)
    await bench.settle()
    # MOVED came too late, and so does every permission to run it here.
    assert bench.words(once) == [(0, Verb.STARTED), (0, Verb.FAILED)]


async def hold_and_wait_for(bench: Bench, batch: Batch) -> None:
    await bench.hold(batch, claim=2)
    await asyncio.sleep(2.5)
