from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cloudray.driver import pump as pumps
from cloudray.driver.pump import Pump

LIMIT_S = 60.0


class Station:
    """What a pump listens to: the test says when something comes."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        #: the names of the threads that were ever in `turn`
        self.listeners: list[str] = []
        self._inside = threading.Lock()
        self.heard = 0
        self.busy = False
        self.ticks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.timeouts_s: queue.SimpleQueue[float] = queue.SimpleQueue()
        #: while this is not set the background gets no further than to `tick`
        self.free = threading.Event()
        self.free.set()

    def turn(self, timeout_s: float) -> None:
        assert self._inside.acquire(blocking=False), "two threads listen at once"
        try:
            self.listeners.append(threading.current_thread().name)
            self.timeouts_s.put(timeout_s)
            try:
                news = self._news.get(timeout=timeout_s) if timeout_s else self._news.get_nowait()
            except queue.Empty:
                return
            if news is not None:
                news()
                self.heard += 1
        finally:
            self._inside.release()

    def tick(self) -> bool:
        self.ticks.put(threading.current_thread().name)
        self.free.wait(LIMIT_S)
        return self.busy

    def wake(self) -> None:
        self._news.put(None)

    def say(self, news: Callable[[], None] = lambda: None) -> None:
        """Let something come."""
        self._news.put(news)


@pytest.fixture
def station() -> Station:
    return Station()


@pytest.fixture
def pump(station: Station) -> Iterator[Pump]:
    pump = Pump(station.turn, station.tick, station.wake)
    pump.start()
    yield pump
    station.free.set()
    pump.close()


def in_thread(work: Callable[[], object], name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def soon_s() -> float:
    return time.monotonic() + LIMIT_S


def test_who_waits_listens(pump: Pump, station: Station) -> None:
    station.say()
    assert pump.run_until(lambda: station.heard == 1, soon_s())
    assert station.heard == 1


def test_what_is_there_already_needs_no_listening(pump: Pump) -> None:
    assert pump.run_until(lambda: True, 0.0)


def test_a_deadline_ends_the_wait(pump: Pump) -> None:
    assert not pump.run_until(lambda: False, time.monotonic())


def test_one_thread_listens_and_all_hear(pump: Pump, station: Station) -> None:
    done: list[str] = []

    def wait() -> None:
        assert pump.run_until(lambda: station.heard >= 3, soon_s())
        done.append(threading.current_thread().name)

    threads = [in_thread(wait, f"waiter-{number}") for number in range(4)]
    for _ in range(3):
        station.say()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(done) == 4


def test_a_follower_becomes_the_leader(pump: Pump, station: Station) -> None:
    leads = threading.Event()
    first_is_done = threading.Event()
    follower_leads = threading.Event()

    def lead() -> None:
        pump.run_until(leads.is_set, soon_s())
        first_is_done.set()

    def follow() -> None:
        pump.run_until(follower_leads.is_set, soon_s())

    leader = in_thread(lead, "leader")
    follower = in_thread(follow, "follower")
    # Whoever leads is told that the first one has what it waited for.
    station.say(leads.set)
    leader.join(LIMIT_S)
    station.say(follower_leads.set)
    follower.join(LIMIT_S)
    assert first_is_done.is_set()
    assert not follower.is_alive()


@pytest.mark.usefixtures("pump")
def test_while_nobody_waits_the_background_listens(station: Station) -> None:
    heard = threading.Event()
    station.say(heard.set)
    assert heard.wait(LIMIT_S)
    assert set(station.listeners) == {"cloudray-driver"}


def test_the_background_does_what_is_due_while_others_wait(pump: Pump, station: Station) -> None:
    stop = threading.Event()
    waiter = in_thread(lambda: pump.run_until(stop.is_set, soon_s()), "waiter")
    while station.ticks.qsize():
        station.ticks.get_nowait()
    assert station.ticks.get(timeout=LIMIT_S) == "cloudray-driver"
    station.say(stop.set)
    waiter.join(LIMIT_S)
    assert not waiter.is_alive()


def test_a_quiet_background_is_stirred_by_a_submission(
    pump: Pump, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "_QUIET_S", 0.0)
    while station.timeouts_s.get(timeout=LIMIT_S) < 1.0:
        pass
    assert pump.quiet
    monkeypatch.setattr(pumps, "_QUIET_S", LIMIT_S)
    pump.stir()
    assert not pump.quiet
    assert station.timeouts_s.get(timeout=LIMIT_S) < 1.0


def test_while_futures_are_pending_the_background_listens_all_the_time(
    pump: Pump, station: Station
) -> None:
    pump.eager = True
    while station.timeouts_s.get(timeout=LIMIT_S) == 0.0:
        pass
    assert station.timeouts_s.get(timeout=LIMIT_S) > 0.0


# -- errors --------------------------------------------------------------------------------


def fail() -> None:
    raise ValueError("no news")


def test_an_error_of_the_listener_reaches_who_waits(station: Station) -> None:
    station.free.clear()
    pump = Pump(station.turn, station.tick, station.wake)
    pump.start()
    station.say(fail)
    with pytest.raises(ValueError, match="no news"):
        pump.run_until(lambda: False, soon_s())
    station.say()
    assert pump.run_until(lambda: station.heard == 1, soon_s())
    station.free.set()
    pump.close()


@pytest.mark.usefixtures("pump")
def test_an_error_in_the_background_does_not_end_it(
    station: Station, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "_PAUSE_S", 0.0)
    station.say(fail)
    heard = threading.Event()
    station.say(heard.set)
    assert heard.wait(LIMIT_S)
    assert "the driver's background work failed" in caplog.text


# -- the end -------------------------------------------------------------------------------


def test_closing_ends_every_wait(station: Station) -> None:
    pump = Pump(station.turn, station.tick, station.wake)
    pump.start()
    ended: list[bool] = []
    waiters = [
        in_thread(lambda: ended.append(pump.run_until(lambda: False, soon_s())), f"waiter-{n}")
        for n in range(3)
    ]
    pump.close()
    for waiter in waiters:
        waiter.join(LIMIT_S)
    assert ended == [False] * 3
