"""Threads in virtual time: they wait for each other as real ones do, and end with their process."""

from __future__ import annotations

from cloudray.testing.scheduler import Process, Scheduler
from cloudray.testing.threads import Condition, Lock, VirtualThread


def never() -> bool:
    return False


def test_a_thread_waits_in_virtual_time() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    heard: list[tuple[bool, float]] = []

    def wait() -> None:
        me = scheduler.baton.holder
        assert me is not None
        heard.append((me.park(7.0), scheduler.now_s))

    VirtualThread(process, wait).start()
    scheduler.run(never, 10.0)
    assert heard == [(False, 7.0)]


def test_a_lock_keeps_others_out_until_it_is_given_back() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    lock = Lock(scheduler.baton)
    heard: list[tuple[str, float]] = []

    def hold(name: str) -> None:
        with lock:
            heard.append((name, scheduler.now_s))
            me = scheduler.baton.holder
            assert me is not None
            me.park(1.0)

    for name in "ab":
        VirtualThread(process, hold, (name,)).start()
    scheduler.run(never, 10.0)
    assert heard == [("a", 0.0), ("b", 1.0)]


def test_a_lock_is_waited_for_no_longer_than_asked() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    lock = Lock(scheduler.baton)
    lock.acquire()
    heard: list[tuple[bool, float]] = []
    VirtualThread(
        process, lambda: heard.append((lock.acquire(timeout=2.0), scheduler.now_s))
    ).start()
    scheduler.run(never, 10.0)
    assert heard == [(False, 2.0)]


def test_a_condition_wakes_who_waits() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    changed = Condition(scheduler.baton)
    heard: list[float] = []

    def wait() -> None:
        with changed:
            changed.wait()
            heard.append(scheduler.now_s)

    def tell() -> None:
        with changed:
            changed.notify_all()

    VirtualThread(process, wait).start()
    process.call_later(3.0, tell)
    scheduler.run(never, 10.0)
    assert heard == [3.0]


def test_a_thread_of_a_dead_process_unwinds() -> None:
    scheduler = Scheduler()
    process = Process(scheduler, "one")
    ended: list[str] = []

    def wait() -> None:
        me = scheduler.baton.holder
        assert me is not None
        try:
            me.park()
        finally:
            ended.append("unwound")

    thread = VirtualThread(process, wait)
    thread.start()
    scheduler.run(never, 1.0)
    process.kill()
    process.bury()
    assert ended == ["unwound"]
    assert not thread.is_alive()
