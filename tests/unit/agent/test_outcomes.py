from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloudray.exceptions import RaySystemError, RuntimeEnvSetupError, WorkerCrashedError
from cloudray.protocol import messages as m
from cloudray.protocol.demand import class_of
from cloudray.protocol.journal import append
from cloudray.protocol.records import Batch, Verb
from cloudray.store import Create, Op, StoreError, drive, envelope
from cloudray.store.base import RefusedError
from cloudray.store.envelope import RecordError
from cloudray.values import codec
from cloudray.values.outcomes import load
from tests.unit.agent.bench import (
    VALUE,
    Bench,
    Executor,
    Refusing,
    Remote,
    batch_of,
    index_of,
    shape_of,
    warm_up,
)
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import cancelled, started

MS = 1000.0


class Failing(Remote):
    """A store far away that cannot create some keys."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        #: what a key contains that cannot be created
        self.broken = ""

    def perform(self, op: Op) -> Any:
        if self.broken and isinstance(op, Create) and self.broken in op.key:
            raise self._error
        return super().perform(op)


def error_of(bench: Bench, batch: Batch, index: int = 0) -> BaseException:
    """The error with which a task ended."""
    word = bench.journal(batch).decided[index]
    assert word.verb is Verb.FAILED
    error = load(word.values[0])
    assert isinstance(error, BaseException)
    return error


# -- deaths --------------------------------------------------------------------------------


async def test_a_death_counts_only_against_the_call_that_ran(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    held = await bench.hold(batch_of(4))
    (first,) = bench.executors
    first.end(first.calls[0])
    first.begin(first.calls[1])
    first.die()
    await bench.settle()
    assert held.deaths == {1: 1}
    _, second = bench.executors
    assert {index_of(call): call.attempt for call in second.calls} == {1: 1, 2: 0, 3: 0}


async def test_a_death_before_any_call_began_counts_against_none(bench: Bench) -> None:
    held = await bench.hold(batch_of(1))
    bench.executors[0].die()
    await bench.settle()
    assert held.deaths == {}
    assert bench.executors[1].calls[0].attempt == 0


async def test_a_death_after_the_last_call_counts_against_none(bench: Bench) -> None:
    (executor,) = await warm_up(bench)
    executor.die()
    await bench.settle()
    held = await bench.hold(batch_of(1))
    assert held.deaths == {}
    assert bench.resources.free["CPU"] == 10_000


async def test_after_a_death_a_start_is_written_before_it_happens(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    bench.executors[0].begin(bench.executors[0].calls[0])
    bench.executors[0].die()
    await bench.settle()
    assert bench.said(batch) == [started(0, attempt=1)]
    assert [call.attempt for call in bench.executors[1].calls] == [1]


async def test_a_task_whose_executors_keep_dying_crashes(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=2))
    await bench.hold(batch)
    for run in range(3):
        executor = bench.executors[run]
        executor.begin(executor.calls[0])
        executor.print(b"about to crash %d\n" % run)
        executor.die(-11)
        await bench.settle()
    error = error_of(bench, batch)
    assert isinstance(error, WorkerCrashedError)
    assert (error.task_name, error.attempt, error.max_attempts) == ("f", 3, 3)
    assert error.signal_name == "SIGSEGV"
    assert error.pid == bench.executors[2].pid
    assert len(bench.executors) == 3


async def test_the_error_shows_what_the_last_run_printed_and_no_other(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    (executor,) = await warm_up(bench)
    executor.print(b"\x00\x01%d f\x02of another call\n" % executor.calls[0].ticket)
    await bench.settle()
    await bench.hold(batch)
    call = executor.calls[-1]
    executor.print(b"\x00\x01%d f\x02last words\n" % call.ticket)
    executor.begin(call)
    executor.die()
    await bench.settle()
    error = error_of(bench, batch)
    assert isinstance(error, WorkerCrashedError)
    assert error.last_lines == ("last words",)


async def test_exceptions_and_deaths_share_a_budget(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=2))
    await bench.hold(batch)
    (first,) = bench.executors
    first.end(first.calls[0], verb=Verb.FAILED, retryable=True)
    for run in range(2):
        executor = bench.executors[run]
        executor.begin(executor.calls[-1])
        executor.die()
        await bench.settle()
    error = error_of(bench, batch)
    assert isinstance(error, WorkerCrashedError)
    assert (error.attempt, error.max_attempts) == (3, 3)


async def test_an_exception_that_may_be_retried_is(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=1))
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], verb=Verb.FAILED, retryable=True)
    assert [call.attempt for call in executor.calls] == [0, 1]
    executor.end(executor.calls[1], verb=Verb.FAILED, retryable=True)
    assert bench.words(batch) == [(0, Verb.FAILED)]


async def test_an_exception_that_may_not_be_retried_is_final(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], verb=Verb.FAILED)
    assert bench.words(batch) == [(0, Verb.FAILED)]


async def test_without_a_limit_an_exception_is_retried_again_and_again(bench: Bench) -> None:
    await bench.hold(batch_of(1, shape_of(max_retries=-1)))
    (executor,) = bench.executors
    for run in range(20):
        executor.end(executor.calls[run], verb=Verb.FAILED, retryable=True)
    assert executor.calls[-1].attempt == 20


# -- permissions ---------------------------------------------------------------------------


async def test_a_task_that_may_run_once_needs_a_permission(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    assert bench.said(batch) == [started(0)]
    assert len(bench.executors[0].calls) == 1


async def test_it_does_not_run_before_the_permission_is_there(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    batch = batch_of(1, shape_of(max_retries=0))
    bench.stage.prompt = False
    bench.discovery.offer(bench.publish(batch))
    await asyncio.sleep(1)
    (executor,) = bench.executors
    bench.stage.report(executor)
    assert (bench.said(batch), executor.calls) == ([], [])
    await asyncio.sleep(1)
    assert bench.said(batch) == [started(0)]
    assert len(executor.calls) == 1


async def test_it_does_not_run_when_another_has_the_permission(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    name = bench.publish(batch)
    bench.stage.prompt = False
    bench.discovery.offer(name)
    await bench.settle()
    bench.write(batch, started(0), claim=2)
    bench.stage.report(bench.executors[0])
    await bench.settle()
    assert bench.executors[0].calls == []
    assert bench.holdings.by_batch == {}


async def test_a_permission_that_the_store_refuses_is_asked_for_again(make_bench: Make) -> None:
    store = Refusing()
    bench = make_bench(store=store)
    batch = batch_of(1, shape_of(max_retries=0))
    store.refused = "/results/"
    await bench.hold(batch)
    (executor,) = bench.executors
    assert executor.calls == []
    store.refused = ""
    bench.dispatcher.look()
    assert bench.said(batch) == [started(0)]
    assert len(executor.calls) == 1


async def test_it_crashes_with_its_executor(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.begin(executor.calls[0])
    executor.die()
    await bench.settle()
    assert isinstance(error_of(bench, batch), WorkerCrashedError)


async def hold_once_before_others(make_bench: Make) -> tuple[Bench, Batch, Executor]:
    """An executor has a call that may run once, and two more behind it."""
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    once = batch_of(1, shape_of(max_retries=0))
    await bench.hold(once)
    await bench.hold(batch_of(2, number=1))
    (executor,) = bench.executors
    return bench, once, executor


async def test_it_does_not_run_again_when_its_executor_dies_in_the_next_call(
    make_bench: Make,
) -> None:
    bench, once, executor = await hold_once_before_others(make_bench)
    first, second, _ = executor.calls
    executor.begin(first)
    # What came of it is on its way.
    executor.begin(second)
    executor.die()
    await bench.settle()
    assert isinstance(error_of(bench, once), WorkerCrashedError)


async def test_what_an_executor_said_just_before_it_died_counts(make_bench: Make) -> None:
    bench, once, executor = await hold_once_before_others(make_bench)
    first, second, _ = executor.calls
    executor.say_last(m.Outcomes((m.Outcome(first.ticket, Verb.DONE, (VALUE,), 1000),)))
    executor.begin(second)
    executor.die()
    await bench.settle()
    assert bench.words(once) == [(0, Verb.STARTED), (0, Verb.DONE)]


async def test_what_an_executor_said_is_handled_before_its_death_is(make_bench: Make) -> None:
    bench = make_bench(cpus=1, remote=True)
    once = batch_of(1, shape_of(max_retries=0))
    await bench.hold(once)
    (executor,) = bench.executors
    # While this is written, what came next waits.
    executor.say(m.Submit(class_of({"CPU": 10_000}), 5, 0, batch_of(1, number=7)))
    executor.end(*executor.calls)
    executor.die()
    await bench.settle()
    assert bench.words(once) == [(0, Verb.STARTED), (0, Verb.DONE)]


async def test_a_slot_is_free_again_though_its_executor_ended_with_nonsense(
    make_bench: Make,
) -> None:
    bench = make_bench(cpus=1)
    batch = batch_of(1)
    await bench.hold(batch)
    # A message of one byte, which is none.
    bench.executors[0].send_last(b"\x01\0\0\0\xc1")
    bench.executors[0].die()
    await bench.settle()
    _, second = bench.executors
    second.end(*second.calls)
    assert (0, Verb.DONE) in bench.words(batch)
    assert bench.workers.all == {second.worker}


@pytest.mark.parametrize(
    "error", [StoreError("no such file"), RecordError("it is no record"), ValueError("a fault")]
)
async def test_what_cannot_be_written_does_not_keep_the_rest_from_being_heard(
    make_bench: Make, error: Exception
) -> None:
    store = Failing(error)
    bench = make_bench(cpus=1, store=store)
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    store.broken = "queue"
    executor.say(m.Submit(class_of({"CPU": 10_000}), 5, 0, batch_of(1, number=7)))
    executor.end(*executor.calls)
    executor.say(m.Submit(class_of({"CPU": 10_000}), 5, 0, batch_of(1, number=8)))
    executor.die()
    await bench.settle()
    assert bench.words(batch) == [(0, Verb.DONE)]
    assert bench.resources.free["CPU"] == 10_000


async def test_what_the_store_refuses_for_a_while_is_written_before_the_rest_is_heard(
    make_bench: Make,
) -> None:
    store = Failing(RefusedError("the token has expired"))
    bench = make_bench(cpus=1, store=store)
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    store.broken = "queue"
    executor.say(m.Submit(class_of({"CPU": 10_000}), 5, 0, batch_of(1, number=7)))
    executor.end(*executor.calls)
    await asyncio.sleep(2)
    assert bench.words(batch) == []
    store.broken = ""
    await asyncio.sleep(1)
    assert bench.words(batch) == [(0, Verb.DONE)]


async def test_no_more_is_sent_to_an_executor_that_has_ended(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(2))
    (executor,) = bench.executors
    (call,) = executor.calls
    executor.say_last(m.Outcomes((m.Outcome(call.ticket, Verb.DONE, (VALUE,), 1000),)))
    executor.die()
    await bench.settle()
    assert [each.places for each in bench.executors] == [[0], [1]]


async def test_it_crashes_when_an_interrupt_hit_it_that_nobody_asked_for(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], verb=Verb.CANCELLED)
    assert isinstance(error_of(bench, batch), WorkerCrashedError)


async def test_it_runs_when_it_was_taken_back_unbegun(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.say(m.Returned((executor.calls[0].ticket,)))
    executor.end(executor.calls[1])
    assert bench.words(batch) == [(0, Verb.STARTED), (0, Verb.DONE)]


async def test_it_runs_when_its_permission_stands_though_asking_for_it_failed(
    make_bench: Make,
) -> None:
    store = Refusing()
    bench = make_bench(store=store)
    batch = batch_of(1, shape_of(max_retries=0))
    store.refused = "results"
    held = await bench.hold(batch)
    store.refused = ""
    # As the clock's regular word about what has been running for a while.
    drive(bench.store, append(held.journal, [started(0)], claim=held.claim))
    bench.dispatcher.look()
    (executor,) = bench.executors
    executor.end(*executor.calls)
    assert bench.words(batch) == [(0, Verb.STARTED), (0, Verb.DONE)]


async def test_it_runs_when_it_was_permitted_and_never_began(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    bench.executors[0].die()
    await bench.settle()
    _, second = bench.executors
    second.end(*second.calls)
    assert bench.words(batch) == [(0, Verb.STARTED), (0, Verb.DONE)]


async def test_it_is_not_retried_when_it_raises(bench: Bench) -> None:
    batch = batch_of(1, shape_of(max_retries=0))
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], verb=Verb.FAILED, retryable=True)
    assert bench.words(batch) == [(0, Verb.STARTED), (0, Verb.FAILED)]


async def test_under_a_later_claim_starts_are_announced_one_at_a_time(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    batch = batch_of(3)
    await bench.hold(batch, claim=2)
    (executor,) = bench.executors
    assert executor.places == [0]
    assert bench.said(batch) == [started(0)]
    executor.end(executor.calls[0])
    assert executor.places == [0, 1]


async def test_a_task_that_was_decided_while_its_start_was_written_does_not_run(
    make_bench: Make,
) -> None:
    bench = make_bench(remote=True)
    batch = batch_of(1, shape_of(max_retries=0))
    name = bench.publish(batch)
    bench.stage.prompt = False
    bench.discovery.offer(name)
    await asyncio.sleep(1)
    bench.write(batch, cancelled(0))
    bench.stage.report(bench.executors[0])
    await bench.settle()
    assert bench.executors[0].calls == []
    assert bench.resources.free["CPU"] == 20_000
    assert bench.words(batch) == [(0, Verb.CANCELLED)]


@pytest.mark.parametrize("max_retries", [0, 3])
async def test_a_task_goes_to_another_executor_if_its_own_dies_while_its_start_is_written(
    make_bench: Make, max_retries: int
) -> None:
    bench = make_bench(remote=True)
    batch = batch_of(1, shape_of(max_retries=max_retries))
    bench.stage.prompt = False
    await bench.hold(batch, claim=2)
    bench.stage.report(bench.executors[0])
    bench.executors[0].die()
    # Half of what the store takes to answer.
    await asyncio.sleep(0.005)
    assert bench.words(batch) == []
    bench.stage.report(bench.executors[1])
    await bench.settle()
    assert bench.executors[0].calls == []
    assert bench.executors[1].places == [0]
    bench.executors[1].end(*bench.executors[1].calls)
    await bench.settle()
    assert bench.words(batch)[-1] == (0, Verb.DONE)
    assert bench.resources.free["CPU"] == 20_000


# -- executors that cannot start -----------------------------------------------------------


async def test_when_executors_keep_dying_before_they_are_ready_tasks_fail(bench: Bench) -> None:
    bench.stage.prompt = False
    batch = batch_of(1, shape_of(env_vars={"A": "1"}))
    await bench.hold(batch)
    for run in range(3):
        bench.executors[run].print(b"no such module\n", is_error=True)
        bench.executors[run].die(1)
        await bench.settle()
    error = error_of(bench, batch)
    assert isinstance(error, RuntimeEnvSetupError)
    assert "no such module" in str(error)
    assert len(bench.executors) == 3


async def test_tasks_of_other_executors_do_not_fail_with_them(bench: Bench) -> None:
    bench.stage.prompt = False
    bad, good = batch_of(1, shape_of("bad", env_vars={"A": "1"})), batch_of(1, number=1)
    await bench.hold(bad)
    await bench.hold(good)
    for _ in range(3):
        for executor in bench.executors:
            if bench.stage.requests[bench.executors.index(executor)].env:
                executor.die(1)
        await bench.settle()
    assert bench.words(bad) == [(0, Verb.FAILED)]
    assert bench.words(good) == []


async def test_executors_that_were_killed_do_not_speak_against_the_environment(
    bench: Bench,
) -> None:
    bench.stage.prompt = False
    batch = batch_of(1)
    await bench.hold(batch)
    for run in range(6):
        bench.executors[run].die(-9)
        await bench.settle()
    assert bench.words(batch) == []
    assert len(bench.executors) == 7


# -- interrupts, late news, values ---------------------------------------------------------


async def test_an_interrupt_that_hit_a_call_that_nobody_cancelled_is_no_end(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], verb=Verb.CANCELLED)
    assert bench.words(batch) == []
    assert len(executor.calls) == 2


async def test_late_news_of_a_task_that_was_decided_is_dropped(bench: Bench) -> None:
    batch = batch_of(2)
    held = await bench.hold(batch)
    one, _ = bench.executors
    bench.write(batch, cancelled(0))
    bench.holdings.look_at(batch.id)
    one.end(one.calls[0])
    assert held.outbox == []
    assert bench.words(batch) == [(0, Verb.CANCELLED)]


async def test_a_large_value_becomes_an_object(bench: Bench, tmp_path: Path) -> None:
    spooled = tmp_path / "value"
    spooled.write_bytes(envelope.seal(envelope.Kind.OBJECT, b"large"))
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], values=(codec.local(str(spooled)),))
    (value,) = bench.journal(batch).decided[0].values
    key = codec.stored_key(value)
    assert key is not None
    assert bench.store.get(key) is not None
    assert not spooled.exists()


async def test_a_value_that_the_store_refuses_is_a_failure_that_says_so(
    make_bench: Make, tmp_path: Path
) -> None:
    store = Refusing()
    bench = make_bench(store=store)
    spooled = tmp_path / "value"
    spooled.write_bytes(envelope.seal(envelope.Kind.OBJECT, b"large"))
    batch = batch_of(1)
    await bench.hold(batch)
    store.refused = "/objects/"
    (executor,) = bench.executors
    executor.end(executor.calls[0], values=(codec.local(str(spooled)),))
    error = error_of(bench, batch)
    assert isinstance(error, RaySystemError)
    assert "could not be stored" in str(error)


async def test_two_attempts_at_a_large_value_share_no_key(bench: Bench, tmp_path: Path) -> None:
    keys = set()
    for number in range(2):
        spooled = tmp_path / f"value-{number}"
        spooled.write_bytes(envelope.seal(envelope.Kind.OBJECT, b"large"))
        batch = batch_of(1, number=number)
        await bench.hold(batch)
        executor = bench.executors[0]
        executor.end(executor.calls[-1], values=(codec.local(str(spooled)),))
        (value,) = bench.journal(batch).decided[0].values
        keys.add(str(codec.stored_key(value)).rpartition("-")[2])
    assert len(keys) == 2
