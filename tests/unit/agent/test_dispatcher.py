from __future__ import annotations

import asyncio

import pytest

from cloudray.agent.held import Status
from cloudray.protocol import messages as m
from cloudray.protocol.records import Verb
from tests.unit.agent.bench import Bench, Executor, batch_of, index_of, shape_of, warm_up
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import done

MS = 1000.0


# -- starting executors --------------------------------------------------------------------


async def test_a_task_is_sent_to_an_executor_that_is_started_for_it(bench: Bench) -> None:
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    setup, learn, run = executor.heard
    assert isinstance(setup, m.Setup)
    assert isinstance(learn, m.Learn)
    assert (learn.shape.name, learn.pickled) == ("f", b"f")
    assert isinstance(run, m.Run)
    (call,) = run.calls
    assert (call.function, call.claim, call.attempt) == (learn.number, 1, 0)
    assert call.arguments == b"0"


@pytest.mark.parametrize(("size", "started"), [(1, 1), (2, 2), (5, 2)])
async def test_no_more_executors_are_started_than_tasks_and_slots(
    bench: Bench, size: int, started: int
) -> None:
    await bench.hold(batch_of(size))
    assert len(bench.executors) == started


async def test_executors_that_are_on_their_way_are_counted(bench: Bench) -> None:
    bench.stage.prompt = False
    await bench.hold(batch_of(5))
    bench.dispatcher.run()
    assert len(bench.executors) == 2


async def test_a_warm_executor_is_used_again(bench: Bench) -> None:
    (executor,) = await warm_up(bench)
    await bench.hold(batch_of(1))
    assert bench.executors == [executor]
    assert len(executor.calls) == 2


async def test_a_function_is_taught_once(bench: Bench) -> None:
    (executor,) = await warm_up(bench)
    await bench.hold(batch_of(1))
    assert len(executor.of(m.Learn)) == 1


async def test_other_environment_variables_need_another_executor(bench: Bench) -> None:
    await warm_up(bench)
    await bench.hold(batch_of(1, shape_of(env_vars={"A": "1"})))
    assert [request.env for request in bench.stage.requests] == [{}, {"A": "1"}]


async def test_a_task_that_does_not_fit_beside_others_waits(bench: Bench) -> None:
    await bench.hold(batch_of(1))
    await bench.hold(batch_of(1, shape_of("wide", cpus=2.0), number=1))
    assert bench.dispatcher.ready_tasks() == 1
    (executor,) = bench.executors
    executor.end(*executor.calls)
    await bench.settle()
    assert bench.dispatcher.ready_tasks() == 0


async def test_a_task_that_needs_no_cpu_runs_beside_a_full_machine(bench: Bench) -> None:
    await bench.hold(batch_of(2))
    await bench.hold(batch_of(1, shape_of("light", cpus=0.0), number=1))
    assert [len(executor.calls) for executor in bench.executors] == [1, 1, 1]


# -- how many calls at once ----------------------------------------------------------------


async def test_calls_that_were_never_measured_go_one_at_a_time(bench: Bench) -> None:
    await bench.hold(batch_of(5))
    assert [len(executor.calls) for executor in bench.executors] == [1, 1]


async def test_short_calls_go_in_chunks(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(50))
    (executor,) = bench.executors
    assert executor.places == [0, 1, 2, 3, 4]
    assert len(executor.of(m.Run)) == 1


async def test_tiny_calls_are_shared_by_warm_executors(bench: Bench) -> None:
    warm = await warm_up(bench, 2)
    bench.measure(1.0)
    await bench.hold(batch_of(10))
    taken = sorted(len(executor.calls) - 1 for executor in warm)
    assert sum(taken) == 10
    assert taken[0] >= 3


async def test_long_calls_go_alone(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(11 * MS)
    await bench.hold(batch_of(3))
    (executor,) = bench.executors
    assert executor.places == [0]


async def test_the_next_chunk_is_sent_before_an_executor_runs_dry(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(50))
    (executor,) = bench.executors
    executor.end(executor.calls[0])
    assert len(executor.calls) == 10
    executor.end(*executor.calls[1:3])
    # It has seven left: more than half of what keeps it busy.
    assert len(executor.calls) == 10


async def test_an_unmeasured_call_does_not_queue_up_behind_others(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS, "short")
    await bench.hold(batch_of(2, shape_of("short")))
    await bench.hold(batch_of(1, shape_of("unknown"), number=1))
    (executor,) = bench.executors
    assert executor.places == [0, 1]
    executor.end(*executor.calls)
    await bench.settle()
    assert len(executor.calls) == 3


async def test_a_short_call_queues_up_behind_others(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(2))
    await bench.hold(batch_of(1, number=1))
    (executor,) = bench.executors
    assert len(executor.calls) == 3


async def test_what_was_measured_here_counts(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(20))
    (executor,) = bench.executors
    executor.end(executor.calls[0], duration_us=1)
    assert len(executor.calls) > 2


# -- taking back ---------------------------------------------------------------------------


async def one_of_two_is_stuck(bench: Bench) -> tuple[Executor, Executor]:
    """An executor with a call that takes long and one behind it, and an idle one."""
    one, other = await warm_up(bench, 2)
    await bench.hold(batch_of(4))
    stuck, idle = (one, other) if len(one.queue) > 1 else (other, one)
    stuck.begin(stuck.queue[0])
    idle.end(*idle.queue)
    await asyncio.sleep(0.03)
    return stuck, idle


async def test_calls_behind_a_long_one_are_taken_back_when_a_slot_is_free(bench: Bench) -> None:
    stuck, idle = await one_of_two_is_stuck(bench)
    behind = stuck.queue[1:]
    bench.dispatcher.look()
    assert len(stuck.of(m.Recall)) == 1
    stuck.say(m.Returned(tuple(call.ticket for call in behind)))
    assert sorted(map(index_of, idle.queue)) == sorted(map(index_of, behind))
    assert {call.attempt for call in idle.queue} == {0}


async def test_calls_are_taken_back_once(bench: Bench) -> None:
    stuck, _ = await one_of_two_is_stuck(bench)
    bench.dispatcher.look()
    bench.dispatcher.look()
    assert len(stuck.of(m.Recall)) == 1


async def test_nothing_is_taken_back_from_an_executor_that_makes_progress(bench: Bench) -> None:
    slow, _ = await one_of_two_is_stuck(bench)
    slow.end(slow.queue[0])
    bench.dispatcher.look()
    assert slow.of(m.Recall) == []


async def test_nothing_more_is_sent_behind_a_call_that_takes_long(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(1))
    await asyncio.sleep(0.03)
    await bench.hold(batch_of(1, number=1))
    assert len(bench.executors[0].calls) == 1


async def test_nothing_is_taken_back_when_no_slot_is_free(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(3))
    await asyncio.sleep(0.03)
    bench.dispatcher.look()
    assert bench.executors[0].of(m.Recall) == []


async def test_a_lone_call_is_never_taken_back(bench: Bench) -> None:
    await bench.hold(batch_of(1))
    await asyncio.sleep(60)
    bench.dispatcher.look()
    assert bench.executors[0].of(m.Recall) == []
    assert not bench.dispatcher.busy


async def test_a_call_that_ended_before_it_could_be_taken_back_counts(bench: Bench) -> None:
    stuck, _ = await one_of_two_is_stuck(bench)
    bench.dispatcher.look()
    stuck.end(*stuck.queue)
    stuck.say(m.Returned(()))
    batch = batch_of(4)
    assert bench.journal(batch).complete
    assert {word.verb for word in bench.journal(batch).decided.values()} == {Verb.DONE}


# -- waiting calls -------------------------------------------------------------------------


async def test_a_blocked_call_lends_its_slot(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1))
    await bench.hold(batch_of(1, number=1, depth=1))
    (parent,) = bench.executors
    parent.say(m.Blocked(blocked=True))
    await bench.settle()
    _, child = bench.executors
    assert len(child.calls) == 1


async def test_a_call_that_goes_on_takes_its_slot_back_even_if_that_is_one_too_many(
    make_bench: Make,
) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1))
    await bench.hold(batch_of(1, number=1, depth=1))
    (parent,) = bench.executors
    parent.say(m.Blocked(blocked=True))
    await bench.settle()
    parent.say(m.Blocked(blocked=False))
    assert bench.resources.free["CPU"] == -10_000
    bench.executors[1].end(*bench.executors[1].calls)
    assert bench.resources.free["CPU"] == 0
    parent.end(*parent.calls)
    assert bench.resources.free["CPU"] == 10_000


async def test_saying_twice_that_it_waits_lends_one_slot(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1))
    (parent,) = bench.executors
    for blocked in (True, True):
        parent.say(m.Blocked(blocked))
    assert bench.resources.free["CPU"] == 10_000
    for blocked in (False, False):
        parent.say(m.Blocked(blocked))
    assert bench.resources.free["CPU"] == 0


async def test_a_blocked_call_gives_back_what_waits_behind_it(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(3))
    (parent,) = bench.executors
    parent.begin(parent.calls[0])
    parent.say(m.Blocked(blocked=True))
    assert len(parent.of(m.Recall)) == 1
    parent.say(m.Returned(tuple(call.ticket for call in parent.calls[1:])))
    await bench.settle()
    _, other = bench.executors
    assert other.places == [1, 2]


async def test_a_blocked_executor_gets_no_more_calls(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    await bench.hold(batch_of(1))
    (parent,) = bench.executors
    parent.say(m.Blocked(blocked=True))
    await bench.hold(batch_of(1, number=1))
    assert len(parent.calls) == 1


async def test_a_blocked_call_that_ends_leaves_the_slot_free(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1))
    (parent,) = bench.executors
    parent.say(m.Blocked(blocked=True))
    parent.end(*parent.calls)
    assert bench.resources.free["CPU"] == 10_000


async def test_a_blocked_executor_that_dies_leaves_the_slot_free(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1, shape_of(max_retries=0)))
    (parent,) = bench.executors
    parent.begin(parent.calls[0])
    parent.say(m.Blocked(blocked=True))
    parent.die()
    await bench.settle()
    assert bench.resources.free["CPU"] == 10_000


# -- executors that leave ------------------------------------------------------------------


async def test_an_executor_that_leaves_gets_no_more_calls(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(2))
    (first,) = bench.executors
    first.end(first.calls[0], leaving=True)
    await bench.settle()
    _, second = bench.executors
    assert (first.places, second.places) == ([0], [1])


async def test_executors_beyond_the_slots_go_after_a_while(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    await bench.hold(batch_of(1))
    (parent,) = bench.executors
    parent.say(m.Blocked(blocked=True))
    await bench.hold(batch_of(1, number=1))
    _, child = bench.executors
    child.end(*child.calls)
    bench.dispatcher.look()
    assert child.of(m.Leave) == []
    await asyncio.sleep(11)
    bench.dispatcher.look()
    assert len(child.of(m.Leave)) == 1
    assert parent.of(m.Leave) == []


# -- cancelling ----------------------------------------------------------------------------


async def test_a_running_call_is_interrupted(bench: Bench) -> None:
    held = await bench.hold(batch_of(1))
    (executor,) = bench.executors
    executor.begin(executor.calls[0])
    bench.dispatcher.interrupt(held, {0}, force=set())
    assert executor.of(m.Interrupt) == [m.Interrupt(executor.calls[0].ticket)]
    assert executor.of(m.Recall) == []


async def test_a_call_that_waits_behind_another_is_taken_back_first(make_bench: Make) -> None:
    bench = make_bench(cpus=1)
    bench.measure(1 * MS)
    held = await bench.hold(batch_of(2))
    (executor,) = bench.executors
    executor.begin(executor.calls[0])
    bench.dispatcher.interrupt(held, {1}, force=set())
    assert executor.heard[-2:] == [m.Recall(), m.Interrupt(executor.calls[1].ticket)]


async def test_by_force_the_executor_is_killed(bench: Bench) -> None:
    held = await bench.hold(batch_of(2))
    one, other = bench.executors
    bench.dispatcher.interrupt(held, {0}, force={0})
    await bench.settle()
    assert one.worker not in bench.workers.all
    assert other.worker in bench.workers.all


# -- backlog, fences ------------------------------------------------------------------------


@pytest.mark.parametrize(("mean_us", "backlog_s"), [(None, 0.2), (1 * MS, 0.004)])
async def test_the_backlog_is_how_long_the_slots_will_be_busy(
    bench: Bench, mean_us: float | None, backlog_s: float
) -> None:
    if mean_us is not None:
        bench.measure(mean_us)
    bench.stage.prompt = False
    await bench.hold(batch_of(8))
    assert bench.dispatcher.backlog_s() == pytest.approx(backlog_s)


async def test_a_fenced_agent_starts_nothing(bench: Bench) -> None:
    bench.dispatcher.fenced = True
    bench.discovery.offer(bench.publish(batch_of(1)), urgent=True)
    await bench.settle()
    assert bench.executors == []
    bench.dispatcher.fenced = False
    bench.dispatcher.run()
    assert len(bench.executors) == 1


async def test_tasks_know_how_long_they_have_been_ready(bench: Bench) -> None:
    held = await bench.hold(batch_of(4))
    before_s = bench.clock()
    await asyncio.sleep(1)
    assert bench.dispatcher.waiting_since(before_s) == {}
    assert bench.dispatcher.waiting_since(bench.clock()) == {held: [2, 3]}
    assert held.status[2] is Status.READY


async def test_how_calls_ended_is_measured_and_published(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    (executor,) = bench.executors
    executor.end(executor.calls[0], duration_us=1234)
    (measured,) = bench.journal(batch).measured
    assert (measured.calls, measured.total_us) == (1, 1234)
    assert bench.said(batch) == [done(0, bench.said(batch)[0].values[0])]
