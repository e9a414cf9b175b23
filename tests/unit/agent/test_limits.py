from __future__ import annotations

import asyncio

from cloudray.agent.limits import GRACE_S
from cloudray.exceptions import TaskTimeoutError
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch, Parent, Shape, Verb
from cloudray.values.outcomes import error_payload, load
from tests.unit.agent.bench import VALUE, Bench, Executor, batch_of, shape_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import cancelled

LIMIT_S = 10.0
LIMITED = shape_of(timeout_s=LIMIT_S)
RETRIED = shape_of(timeout_s=LIMIT_S, retry_timeouts=True, max_retries=1)
JUST_IN_TIME_US = int(LIMIT_S * 1e6) - 1
LATE_US = int(LIMIT_S * 1e6) + 1
#: What an executor says of a call that was interrupted because its time was over.
PAYLOAD = error_payload(TaskTimeoutError(task_name="f", timeout_s=LIMIT_S, traceback_str="here"))


async def run(bench: Bench, shape: Shape) -> tuple[Batch, Executor, m.Call]:
    """One task of this shape, and the executor that has begun with it."""
    batch = batch_of(1, shape)
    await bench.hold(batch)
    (executor,) = bench.executors
    (call,) = executor.calls
    executor.begin(call)
    return batch, executor, call


async def run_until_interrupted(bench: Bench, shape: Shape) -> tuple[Batch, Executor, m.Call]:
    batch, executor, call = await run(bench, shape)
    await asyncio.sleep(LIMIT_S + 0.01)
    assert executor.of(m.Interrupt) == [m.Interrupt(call.ticket, timed_out=True)]
    return batch, executor, call


def error_of(bench: Bench, batch: Batch) -> TaskTimeoutError:
    """The error with which the batch's only task ended."""
    word = bench.journal(batch).decided[0]
    assert word.verb is Verb.FAILED
    error = load(word.values[0])
    assert isinstance(error, TaskTimeoutError)
    return error


async def test_a_call_is_interrupted_when_its_time_is_over(bench: Bench) -> None:
    _, executor, _ = await run(bench, LIMITED)
    await asyncio.sleep(LIMIT_S - 0.01)
    assert executor.of(m.Interrupt) == []
    await asyncio.sleep(0.02)
    assert len(executor.of(m.Interrupt)) == 1


async def test_the_task_fails_with_what_its_executor_says(bench: Bench) -> None:
    batch, executor, call = await run_until_interrupted(bench, LIMITED)
    executor.end(call, verb=Verb.FAILED, values=(PAYLOAD,), duration_us=LATE_US)
    assert error_of(bench, batch).traceback_str == "here"
    await asyncio.sleep(2 * GRACE_S)
    assert executor.status == 0
    assert bench.resources.free == bench.resources.total


async def test_a_call_that_goes_on_is_killed_after_a_grace_period(bench: Bench) -> None:
    batch, executor, _ = await run_until_interrupted(bench, LIMITED)
    await asyncio.sleep(GRACE_S - 0.1)
    assert executor.status == 0
    assert not bench.journal(batch).decided
    await asyncio.sleep(0.2)
    assert executor.status == -9
    error = error_of(bench, batch)
    assert error.killed
    assert (error.attempt, error.timeout_s, error.task_name) == (1, LIMIT_S, "f")
    assert bench.resources.free == bench.resources.total


async def test_a_result_that_came_just_in_time_stands(bench: Bench) -> None:
    """It was on its way when the agent thought that its time was over."""
    batch, executor, call = await run_until_interrupted(bench, LIMITED)
    executor.end(call, duration_us=JUST_IN_TIME_US)
    assert bench.journal(batch).decided[0].values == (VALUE,)


async def test_a_result_in_spite_of_the_interrupt_is_void(bench: Bench) -> None:
    batch, executor, call = await run_until_interrupted(bench, LIMITED)
    executor.end(call, duration_us=LATE_US)
    assert not error_of(bench, batch).killed


async def test_an_interrupt_that_hit_the_very_end_is_no_second_chance(bench: Bench) -> None:
    batch, executor, call = await run_until_interrupted(bench, LIMITED)
    executor.end(call, verb=Verb.CANCELLED)
    assert error_of(bench, batch).attempt == 1
    assert len(executor.calls) == 1


async def test_a_call_that_ends_in_time_is_left_alone_ever_after(bench: Bench) -> None:
    batch, executor, call = await run(bench, LIMITED)
    await asyncio.sleep(LIMIT_S / 2)
    executor.end(call)
    await asyncio.sleep(3 * LIMIT_S)
    assert executor.of(m.Interrupt) == []
    assert bench.journal(batch).decided[0].values == (VALUE,)


async def test_a_call_without_a_limit_is_left_alone(bench: Bench) -> None:
    _, executor, _ = await run(bench, shape_of())
    await asyncio.sleep(1000 * LIMIT_S)
    assert executor.of(m.Interrupt) == []


async def test_waiting_behind_another_call_does_not_count(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1000.0)
    await bench.hold(batch_of(2, LIMITED))
    (executor,) = bench.executors
    first, second = executor.calls
    executor.begin(first)
    await asyncio.sleep(0.9 * LIMIT_S)
    executor.end(first)
    executor.begin(second)
    await asyncio.sleep(0.9 * LIMIT_S)
    assert executor.of(m.Interrupt) == []
    await asyncio.sleep(0.2 * LIMIT_S)
    assert executor.of(m.Interrupt) == [m.Interrupt(second.ticket, timed_out=True)]


async def test_a_call_that_was_taken_back_is_watched_where_it_runs_next(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1000.0)
    await bench.hold(batch_of(2, LIMITED))
    (executor,) = bench.executors
    first, second = executor.calls
    executor.say(m.Returned((second.ticket,)))
    executor.end(first)
    await bench.settle()
    again = executor.calls[-1]
    executor.begin(again)
    await asyncio.sleep(LIMIT_S + 0.01)
    assert executor.of(m.Interrupt) == [m.Interrupt(again.ticket, timed_out=True)]


async def test_waiting_for_values_counts(bench: Bench) -> None:
    _, executor, call = await run(bench, LIMITED)
    executor.say(m.Blocked(blocked=True))
    await asyncio.sleep(LIMIT_S + 0.01)
    assert executor.of(m.Interrupt) == [m.Interrupt(call.ticket, timed_out=True)]


async def test_what_is_queued_behind_a_call_that_is_killed_runs_elsewhere(
    make_bench: Make,
) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1000.0)
    batch = batch_of(2, LIMITED)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.begin(executor.calls[0])
    await asyncio.sleep(LIMIT_S + GRACE_S + 0.1)
    await bench.settle()
    (call,) = bench.executors[1].calls
    bench.executors[1].end(call)
    decided = bench.journal(batch).decided
    assert (decided[0].verb, decided[1].values) == (Verb.FAILED, (VALUE,))


async def test_a_timeout_is_not_retried_as_a_crash_is(bench: Bench) -> None:
    batch, _, _ = await run_until_interrupted(bench, LIMITED)
    await asyncio.sleep(2 * GRACE_S)
    assert error_of(bench, batch).max_attempts == 0
    assert sum(len(executor.calls) for executor in bench.executors) == 1


async def test_a_timeout_is_retried_where_exceptions_like_it_are(bench: Bench) -> None:
    batch, executor, call = await run_until_interrupted(bench, RETRIED)
    executor.end(call, verb=Verb.FAILED, values=(PAYLOAD,), retryable=True, duration_us=LATE_US)
    second = executor.calls[-1]
    assert second.attempt == 1
    executor.end(second)
    assert bench.journal(batch).decided[0].values == (VALUE,)


async def test_a_call_that_was_killed_is_retried_too_and_its_attempts_are_counted(
    bench: Bench,
) -> None:
    batch, _, _ = await run_until_interrupted(bench, RETRIED)
    await asyncio.sleep(GRACE_S + 0.1)
    await bench.settle()
    executor = bench.executors[-1]
    (call,) = executor.calls
    assert call.attempt == 1
    executor.begin(call)
    await asyncio.sleep(LIMIT_S + GRACE_S + 0.1)
    error = error_of(bench, batch)
    assert (error.attempt, error.max_attempts, error.killed) == (2, 2, True)


async def test_a_cancelled_call_that_does_not_end_is_still_stopped_in_time(bench: Bench) -> None:
    batch, executor, _ = await run(bench, LIMITED)
    bench.write(batch, cancelled(0))
    bench.holdings.look_at(batch.id)
    await asyncio.sleep(LIMIT_S + GRACE_S + 0.1)
    assert executor.status == -9
    assert bench.words(batch) == [(0, Verb.CANCELLED)]


async def test_what_a_call_out_of_time_has_submitted_goes_with_it(bench: Bench) -> None:
    batch, executor, call = await run_until_interrupted(bench, LIMITED)
    child = batch_of(1, shape_of("child"), number=7, depth=1, parent=Parent(batch.id, 0, 1, 0))
    await bench.hold(child)
    executor.end(call, verb=Verb.FAILED, values=(PAYLOAD,), duration_us=LATE_US)
    await asyncio.sleep(1)
    bench.holdings.tick()
    await bench.settle()
    assert bench.words(child)[-1] == (0, Verb.FAILED)
