"""Virtual time: what runs when, and what becomes of those that are paused or killed."""

from __future__ import annotations

import asyncio

from cloudray.testing.scheduler import Process, Scheduler


def never() -> bool:
    return False


def test_the_clock_jumps_to_what_is_due_next() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    heard: list[float] = []

    async def sleep() -> None:
        await asyncio.sleep(100.0)
        heard.append(process.time())

    process.spawn(sleep())
    assert not scheduler.run(never, 1000.0)
    assert heard == [100.0]


def test_a_run_ends_when_it_is_over() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    heard: list[str] = []
    process.call_later(1.0, heard.append, "first")
    process.call_later(2.0, heard.append, "second")
    assert scheduler.run(lambda: bool(heard), 10.0)
    assert heard == ["first"]
    assert scheduler.now_s == 1.0


def test_what_a_paused_process_missed_comes_when_it_goes_on() -> None:
    scheduler = Scheduler()
    process, fate = Process(scheduler, "one"), Process(scheduler, "fate")
    heard: list[float] = []
    process.call_later(1.0, lambda: heard.append(process.time()))
    process.pause()
    fate.call_later(5.0, process.resume)
    scheduler.run(never, 10.0)
    assert heard == [5.0]


def test_a_killed_process_does_nothing_more() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    heard: list[str] = []
    process.call_later(1.0, heard.append, "never")
    process.kill()
    scheduler.run(never, 10.0)
    assert heard == []


def test_clocks_drift() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "fast", drift=2.0, skew_s=5.0)
    process.call_later(10.0, lambda: None)
    assert scheduler.run(lambda: scheduler.now_s > 0, 100.0)
    assert scheduler.now_s == 5.0
    assert process.time() == 10.0


def test_an_error_in_a_callback_is_kept() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    process.call_soon(lambda: 1 / 0)
    scheduler.run(never, 1.0)
    name, context = scheduler.errors[0]
    assert name == "one"
    assert isinstance(context["exception"], ZeroDivisionError)
