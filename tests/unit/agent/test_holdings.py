from __future__ import annotations

import asyncio

import pytest

from cloudray.agent.held import NOBODY, Held
from cloudray.exceptions import OwnerDiedError, RaySystemError, TaskCancelledError
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch, Entry, Parent, Task, Verb, Word
from cloudray.store import Delete, Op, drive, envelope, layout
from cloudray.store.layout import claim_of
from cloudray.values.outcomes import load
from tests.unit.agent.bench import (
    ERROR,
    SETTINGS,
    VALUE,
    Bench,
    Refusing,
    Remote,
    Wire,
    batch_of,
    index_of,
    name_of,
    ref,
)
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import (
    cancelled,
    done,
    entries_of,
    failed,
    moved,
    started,
)

SOURCE = batch_of(2, number=50)
PARENT = batch_of(1, number=60)
#: Each needs the value of the one before.
CHAIN = batch_of(
    tasks=[Task(0, b"0"), *(Task(0, b"%d" % n, b"", (ref(batch_of(1), n - 1),)) for n in (1, 2))]
)
COMMIT_S = SETTINGS.commit_s


def entries(bench: Bench, batch: Batch) -> list[Entry]:
    return entries_of(bench.store, batch.id)


def errors(bench: Bench, batch: Batch) -> list[BaseException]:
    decided = bench.journal(batch).decided
    return [load(decided[index].values[0]) for index in sorted(decided)]


async def run_all(bench: Bench) -> None:
    """Let the executors end all calls that they have."""
    for executor in bench.executors:
        executor.end(*executor.queue)
    await bench.settle()


# -- publishing ----------------------------------------------------------------------------


async def test_a_batch_that_is_over_is_published_at_once(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(*executor.calls)
    assert bench.said(batch) == [done(0, VALUE)]


async def test_a_part_is_published_when_a_commit_interval_is_over(bench: Bench) -> None:
    batch = batch_of(2)
    await bench.hold(batch)
    one, _ = bench.executors
    one.end(*one.calls)
    await asyncio.sleep(COMMIT_S / 2)
    assert bench.said(batch) == []
    await asyncio.sleep(COMMIT_S)
    # By now it can be said of the other one that it runs.
    assert bench.said(batch) == [done(0, VALUE), started(1)]


async def test_what_ends_within_a_commit_interval_is_one_entry(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    batch = batch_of(10)
    bench.measure(10_000_000)
    await bench.hold(batch)
    (executor,) = bench.executors
    for _ in range(9):
        executor.end(*executor.queue, duration_us=10_000_000)
    await asyncio.sleep(2 * COMMIT_S)
    # Nine words, and that the tenth has started.
    (entry,) = entries(bench, batch)
    assert [word.verb for word in entry.words] == [Verb.DONE] * 9 + [Verb.STARTED]


async def test_what_ended_long_after_the_last_entry_is_published_at_once(bench: Bench) -> None:
    batch = batch_of(2)
    await bench.hold(batch)
    one, _ = bench.executors
    await asyncio.sleep(2 * COMMIT_S)
    one.end(*one.calls)
    assert (0, Verb.DONE) in bench.words(batch)


async def test_a_word_that_somebody_waits_for_is_published_at_once(bench: Bench) -> None:
    await bench.hold(CHAIN)
    (executor,) = bench.executors
    executor.end(*executor.calls)
    assert bench.said(CHAIN) == [done(0, VALUE)]


async def test_but_not_while_there_is_other_work_to_do(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(CHAIN)
    await bench.hold(batch_of(3, number=1))
    (executor,) = bench.executors
    executor.end(*executor.calls)
    assert bench.said(CHAIN) == []
    await asyncio.sleep(2 * COMMIT_S)
    assert bench.said(CHAIN) == [done(0, VALUE)]


async def test_no_entry_is_written_without_something_to_say(bench: Bench) -> None:
    batch = batch_of(2)
    held = await bench.hold(batch)
    await asyncio.sleep(COMMIT_S / 2)
    bench.holdings.consider(held)
    assert entries(bench, batch) == []


async def test_while_an_entry_is_on_its_way_no_other_is_begun(make_bench: Make) -> None:
    bench = make_bench(cpus=2, remote=True)
    batch = batch_of(3)
    held = await bench.hold(batch)
    await asyncio.sleep(1)
    one, other = bench.executors
    one.end(one.calls[0])
    await asyncio.sleep(0)
    assert held.busy
    other.end(other.calls[0])
    await asyncio.sleep(0)
    assert held.outbox == [done(1, VALUE)]
    await asyncio.sleep(1)
    first, second = [entry.words for entry in entries(bench, batch)][:2]
    assert done(0, VALUE) in first
    assert done(1, VALUE) in second


async def test_drivers_are_told_how_far_a_journal_goes(bench: Bench) -> None:
    driver = Wire()
    protocol = bench.agent.connection_factory()
    protocol.connection_made(driver)
    protocol.data_received(m.pack(m.Attach(name_of(SOURCE).batch[1:11], want_logs=False)))
    batch = batch_of(1)
    await bench.hold(batch)
    await run_all(bench)
    (hint,) = [message for message in driver.messages if isinstance(message, m.Published)]
    assert (hint.batch, hint.next) == (batch.id, 1)


async def test_a_task_that_runs_long_is_said_to_have_started(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    bench.holdings.tick()
    assert bench.said(batch) == []
    await asyncio.sleep(1.5 * COMMIT_S)
    bench.holdings.tick()
    bench.holdings.tick()
    assert bench.said(batch) == [started(0)]


# -- a store that refuses ------------------------------------------------------------------


async def test_what_the_store_refused_is_published_later(make_bench: Make) -> None:
    store = Refusing()
    bench = make_bench(store=store)
    batch = batch_of(1)
    await bench.hold(batch)
    store.refused = "/results/"
    (executor,) = bench.executors
    executor.end(*executor.calls)
    await asyncio.sleep(3 * SETTINGS.lease_s)
    assert bench.said(batch) == []
    store.refused = ""
    await asyncio.sleep(3 * SETTINGS.lease_s)
    assert bench.said(batch) == [done(0, VALUE)]
    assert not bench.holdings.has(batch.id)


async def test_words_stay_in_their_order_when_the_store_refuses_some(make_bench: Make) -> None:
    store = Refusing()
    bench = make_bench(cpus=1, store=store)
    batch = batch_of(2)
    held = await bench.hold(batch)
    await asyncio.sleep(2 * COMMIT_S)
    store.refused = "/results/"
    (executor,) = bench.executors
    executor.end(*executor.queue)
    executor.end(*executor.queue)
    assert held.outbox == [done(0, VALUE), done(1, VALUE)]


# -- the end of a batch --------------------------------------------------------------------


async def test_a_finished_batch_leaves_the_queue(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    await run_all(bench)
    assert bench.keys(layout.QUEUE) == [claim_of(name_of(batch).stem, 1)]
    assert not bench.holdings.has(batch.id)


async def test_it_is_known_when_nothing_is_held(bench: Bench) -> None:
    assert bench.holdings.empty.is_set()
    await bench.hold(batch_of(1))
    await bench.hold(batch_of(1, number=1))
    bench.executors[0].end(*bench.executors[0].queue)
    assert not bench.holdings.empty.is_set()
    bench.executors[1].end(*bench.executors[1].queue)
    assert bench.holdings.empty.is_set()


async def test_its_claims_are_deleted_a_lease_later(bench: Bench) -> None:
    await bench.hold(batch_of(1), claim=3)
    await run_all(bench)
    await bench.holdings.forget_claims()
    assert len(bench.keys(layout.QUEUE)) == 3
    await asyncio.sleep(1.5 * SETTINGS.lease_s)
    await bench.holdings.forget_claims()
    assert bench.keys(layout.QUEUE) == []


async def test_an_entry_that_comes_back_when_its_batch_is_over_goes_again(bench: Bench) -> None:
    batch = batch_of(1)
    name = name_of(batch)
    bench.write(batch, cancelled(0))
    # The second time it is a delayed duplicate of what has submitted it.
    for _ in range(2):
        drive(bench.store, claims.submit(name, batch))
        await bench.discovery.scan()
        await bench.settle()
        assert bench.keys(layout.QUEUE) == [claim_of(name.stem, 1)]
        await asyncio.sleep(1.5 * SETTINGS.lease_s)
        await bench.holdings.forget_claims()
        assert bench.keys(layout.QUEUE) == []


async def test_the_claims_of_an_orphan_are_deleted_a_lease_later(bench: Bench) -> None:
    parent, child = batch_of(1), batch_of(1, number=1, parent=Parent(batch_of(1).id, 0, 1, 0))
    bench.publish(parent)
    bench.write(parent, done(0), claim=2)
    name = bench.publish(child)
    bench.discovery.offer(name)
    await bench.settle()
    assert bench.words(child) == [(0, Verb.FAILED)]
    await asyncio.sleep(1.5 * SETTINGS.lease_s)
    await bench.holdings.forget_claims()
    assert bench.store.get(claim_of(name.stem, 1)) is None


async def test_a_batch_that_others_have_finished_is_let_go(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    bench.write(batch, done(0), claim=2)
    bench.holdings.look_at(batch.id)
    assert not bench.holdings.has(batch.id)


async def test_only_what_is_not_decided_yet_is_run(bench: Bench) -> None:
    batch = batch_of(3)
    bench.write(batch, done(0), claim=1)
    await bench.hold(batch, claim=2)
    assert sorted(index_of(call) for one in bench.executors for call in one.calls) == [1, 2]


async def test_without_its_function_a_batch_fails(bench: Bench) -> None:
    batch = batch_of(2)
    name = bench.publish(batch)
    (blob,) = bench.keys(layout.job_folder(7, batch.id[1:11]) + "blobs/")
    bench.store.perform(Delete((blob,)))
    bench.discovery.offer(name)
    await bench.settle()
    for error in errors(bench, batch):
        assert isinstance(error, RaySystemError)
        assert "the function f is not at" in str(error)
    assert not bench.holdings.has(batch.id)
    assert claim_of(name.stem, 0) not in bench.keys(layout.QUEUE)


# -- arguments -----------------------------------------------------------------------------


def needing(*refs: bytes, arguments_id: bytes = b"") -> Batch:
    return batch_of(tasks=[Task(0, b"arguments", arguments_id, refs)])


async def test_a_task_waits_for_its_arguments(bench: Bench) -> None:
    held = await bench.hold(needing(ref(SOURCE, 0), ref(SOURCE, 1)))
    assert (bench.executors, bench.holdings.waiting_tasks) == ([], 1)
    bench.write(SOURCE, done(1, b"second"))
    await asyncio.sleep(1)
    assert held.missing == {0: 1}
    bench.write(SOURCE, done(0, b"first"))
    await asyncio.sleep(1)
    assert bench.holdings.waiting_tasks == 0
    assert bench.executors[0].calls[0].values == (b"first", b"second")


async def test_a_task_whose_arguments_are_there_runs_at_once(bench: Bench) -> None:
    bench.write(SOURCE, done(0, b"first"))
    await bench.hold(needing(ref(SOURCE, 0)))
    await bench.settle()
    assert len(bench.executors) == 1


async def test_a_task_may_need_another_of_its_batch(bench: Bench) -> None:
    await bench.hold(CHAIN)
    await run_all(bench)
    (executor,) = bench.executors
    assert executor.places == [0, 1]
    assert executor.calls[1].values == (VALUE,)


async def test_large_arguments_are_fetched(bench: Bench) -> None:
    where = batch_of(1, number=70).id + b"\xff\xff\0\0"
    body = envelope.seal(envelope.Kind.OBJECT, b"large arguments")
    bench.store.put(layout.put_object(where), body)
    await bench.hold(needing(arguments_id=where))
    await asyncio.sleep(1)
    assert bench.executors[0].calls[0].arguments == b"large arguments"


async def test_a_failed_argument_fails_its_task_with_the_same_error(bench: Bench) -> None:
    batch = needing(ref(SOURCE, 0), ref(SOURCE, 1))
    await bench.hold(batch)
    bench.write(SOURCE, failed(0, ERROR))
    await asyncio.sleep(1)
    assert bench.said(batch) == [Word(0, Verb.FAILED, (ERROR,), NOBODY)]
    assert bench.executors == []


async def test_a_cancelled_argument_cancels_its_task(bench: Bench) -> None:
    batch = needing(ref(SOURCE, 1))
    await bench.hold(batch)
    bench.write(SOURCE, cancelled(1))
    await asyncio.sleep(1)
    (error,) = errors(bench, batch)
    assert isinstance(error, TaskCancelledError)
    assert error.task_id == ref(SOURCE, 1)[:27].hex()


async def test_a_task_that_failed_waits_for_nothing_more(bench: Bench) -> None:
    batch = batch_of(tasks=[Task(0, b"", b"", (ref(SOURCE, 0), ref(SOURCE, 1))), Task(0, b"")])
    await bench.hold(batch)
    bench.write(SOURCE, failed(0, ERROR))
    await asyncio.sleep(1)
    assert bench.holdings.waiting_tasks == 0


# -- looking -------------------------------------------------------------------------------


async def cancel_running(bench: Bench, word: Word) -> Held:
    batch = batch_of(2)
    held = await bench.hold(batch)
    for executor in bench.executors:
        executor.begin(executor.calls[0])
    bench.write(batch, word)
    bench.holdings.look_at(batch.id)
    await bench.settle()
    return held


async def test_a_task_that_is_cancelled_is_interrupted(bench: Bench) -> None:
    await cancel_running(bench, cancelled(0))
    interrupted = [len(executor.of(m.Interrupt)) for executor in bench.executors]
    assert interrupted == [1, 0]


async def test_by_force_its_executor_is_killed(bench: Bench) -> None:
    await cancel_running(bench, Word(0, Verb.CANCELLED, (b"force",)))
    assert len(bench.workers.all) == 1


async def test_the_journal_of_a_running_batch_is_looked_at_now_and_then(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    bench.write(batch, cancelled(0))
    for _ in range(8):
        await asyncio.sleep(COMMIT_S)
        bench.holdings.tick()
    assert len(bench.executors[0].of(m.Interrupt)) == 1


async def test_news_that_comes_while_an_entry_is_written_is_looked_at_afterwards(
    make_bench: Make,
) -> None:
    bench = make_bench(remote=True)
    batch = batch_of(3)
    held = await bench.hold(batch)
    await asyncio.sleep(1)
    one, _ = bench.executors
    one.end(one.calls[0])
    await asyncio.sleep(0.005)
    assert held.busy
    bench.holdings.look_at(batch.id)
    bench.write(batch, cancelled(1))
    await asyncio.sleep(1)
    assert held.journal.decided[1].verb is Verb.CANCELLED


async def test_news_of_a_batch_that_is_not_ours_is_nothing(bench: Bench) -> None:
    before = bench.ledger.as_dict()
    bench.holdings.look_at(SOURCE.id)
    assert bench.ledger.subtract(before).priced_requests == 0


# -- orphans -------------------------------------------------------------------------------

CHILD_OF_FIRST = Parent(PARENT.id, 0, 1, 0)


async def look_at_parents(bench: Bench) -> None:
    for _ in range(7):
        await asyncio.sleep(COMMIT_S)
        bench.holdings.tick()


@pytest.mark.parametrize(
    ("words", "claim", "orphaned"),
    [
        ([], 1, False),
        ([done(0)], 1, False),
        ([failed(0)], 1, False),
        ([moved(0, SOURCE.id, 1)], 1, False),
        ([cancelled(0)], 0, True),
        ([done(0)], 2, True),
        ([Word(0, Verb.DONE, (VALUE,), 1)], 1, True),
        ([Word(0, Verb.FAILED, (ERROR,), NOBODY)], 1, True),
    ],
    ids=[
        "parent runs",
        "parent succeeded",
        "parent raised",
        "parent moved",
        "parent cancelled",
        "another claim won",
        "another attempt won",
        "parent crashed",
    ],
)
async def test_a_task_is_an_orphan_when_its_parents_word_is_not_its_submitters(
    bench: Bench, words: list[Word], claim: int, orphaned: bool
) -> None:
    batch = batch_of(1, parent=CHILD_OF_FIRST, depth=1)
    await bench.hold(batch)
    if words:
        bench.write(PARENT, *words, claim=claim)
    await look_at_parents(bench)
    decided = bench.journal(batch).decided
    assert bool(decided) is orphaned
    if orphaned:
        (error,) = errors(bench, batch)
        assert isinstance(error, OwnerDiedError)
        assert len(bench.executors[0].of(m.Interrupt)) == 1


async def test_orphans_that_wait_for_arguments_do_not_wait_any_longer(bench: Bench) -> None:
    task = Task(0, b"", b"", (ref(SOURCE),))
    batch = batch_of(tasks=[task, task], parent=CHILD_OF_FIRST, depth=1)
    await bench.hold(batch)
    bench.write(PARENT, cancelled(0))
    await look_at_parents(bench)
    assert [type(error) for error in errors(bench, batch)] == [OwnerDiedError] * 2
    assert not bench.holdings.has(batch.id)


async def test_what_an_orphan_has_finished_stands(bench: Bench) -> None:
    batch = batch_of(2, parent=CHILD_OF_FIRST, depth=1)
    await bench.hold(batch)
    one, _ = bench.executors
    one.end(*one.calls)
    bench.write(PARENT, cancelled(0))
    await look_at_parents(bench)
    decided = bench.journal(batch).decided
    assert (decided[0].verb, decided[1].verb) == (Verb.DONE, Verb.FAILED)


class SlowParent(Remote):
    """A store that answers nothing about a parent's journal until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def perform_async(self, op: Op) -> object:
        if getattr(op, "key", "").startswith(layout.journal(PARENT.id)):
            self.asked += 1
            await self.may_answer.wait()
        return await super().perform_async(op)


async def test_a_parent_is_not_looked_at_twice_at_once_however_slow_the_store(
    make_bench: Make,
) -> None:
    store = SlowParent()
    bench = make_bench(store=store)
    batch = batch_of(1, parent=CHILD_OF_FIRST, depth=1)
    await bench.hold(batch)
    asked = store.asked
    store.may_answer.clear()
    for _ in range(3):
        await look_at_parents(bench)
    assert store.asked == asked + 1
    bench.write(PARENT, started(0))
    bench.write(PARENT, done(0), claim=2)
    store.may_answer.set()
    await look_at_parents(bench)
    # Each entry was folded once, and none was skipped.
    assert list(bench.journal(batch).decided) == [0]


# -- given-away batches --------------------------------------------------------------------


def given_away(*places: int) -> Batch:
    origin = [SOURCE.id + place.to_bytes(2, "big") for place in places]
    return batch_of(tasks=[Task(0, b"%d" % n, origin=at) for n, at in enumerate(origin)], number=3)


async def test_who_claims_a_given_away_batch_makes_its_origin_point_there(bench: Bench) -> None:
    part = given_away(0, 1)
    await bench.hold(part)
    assert bench.said(SOURCE) == [moved(0, part.id, 0), moved(1, part.id, 1)]


async def test_only_what_its_origin_points_to_is_run(bench: Bench) -> None:
    part = given_away(0, 1)
    bench.write(SOURCE, done(0), claim=1)
    await bench.hold(part)
    assert [index_of(call) for one in bench.executors for call in one.calls] == [1]
    assert bench.words(part) == [(0, Verb.CANCELLED)]
