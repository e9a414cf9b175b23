from __future__ import annotations

import pytest

from cloudray.agent.connection import MAX_UNREAD_BYTES, Connection
from cloudray.agent.screen import BACKLOG_BYTES, KEPT_CHARACTERS, KEPT_LINES, NOTICE_S, Screen
from cloudray.protocol.messages import Line, Printed
from tests.unit.agent.bench import JOB, Wire


class Watcher:
    """A driver that reads as much as the test says, and what it was shown."""

    def __init__(self) -> None:
        self.wire = Wire()
        connection = Connection(lambda *_: None, lambda _: None)
        connection.connection_made(self.wire)
        self.screen = Screen(connection, JOB.id, "file:///logs")

    @property
    def texts(self) -> list[str]:
        found: list[str] = []
        for message in self.wire.messages:
            assert isinstance(message, Printed)
            assert message.job == JOB.id
            found += [line.text for line in message.lines]
        return found


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def lines(*numbers: int, pid: int = 42) -> tuple[Line, ...]:
    return tuple(Line("f", pid, f"line {number}", is_error=False) for number in numbers)


def test_a_driver_that_keeps_up_gets_all_at_once(watcher: Watcher) -> None:
    watcher.screen.show(lines(1, 2))
    watcher.screen.show(lines(3))
    assert watcher.texts == ["line 1", "line 2", "line 3"]


def test_one_that_does_not_gets_it_when_it_does(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = BACKLOG_BYTES
    watcher.screen.show(lines(1, 2))
    watcher.screen.catch_up(0.0)
    assert watcher.texts == []
    watcher.wire.unread_bytes = 0
    watcher.screen.catch_up(0.0)
    assert watcher.texts == ["line 1", "line 2"]


def test_lines_never_overtake_those_that_were_held_back(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = BACKLOG_BYTES
    watcher.screen.show(lines(1))
    watcher.wire.unread_bytes = 0
    watcher.screen.show(lines(2))
    watcher.screen.catch_up(0.0)
    watcher.screen.show(lines(3))
    assert watcher.texts == ["line 1", "line 2", "line 3"]


def test_the_last_lines_are_kept_and_those_left_out_are_counted(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = BACKLOG_BYTES
    for number in range(KEPT_LINES + 1234):
        watcher.screen.show(lines(number))
    watcher.wire.unread_bytes = 0
    watcher.screen.catch_up(0.0)
    notice, first, *_, last = watcher.texts
    assert notice.startswith("1,234 lines of output are left out here")
    assert notice.endswith("file:///logs")
    assert (first, last) == ("line 1234", f"line {KEPT_LINES + 1233}")


def test_few_long_lines_are_as_bad_as_many(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = BACKLOG_BYTES
    half = Line("f", 42, "x" * (KEPT_CHARACTERS // 2), is_error=False)
    for _ in range(5):
        watcher.screen.show((half,))
    watcher.wire.unread_bytes = 0
    watcher.screen.catch_up(0.0)
    notice, *kept = watcher.texts
    assert notice.startswith("3 lines")
    assert len(kept) == 2


def test_it_is_not_said_all_the_time_that_lines_are_missing(watcher: Watcher) -> None:
    for tick in range(11):
        watcher.wire.unread_bytes = BACKLOG_BYTES
        watcher.screen.show(lines(*range(KEPT_LINES + 1)))
        watcher.wire.unread_bytes = 0
        watcher.screen.catch_up(tick * NOTICE_S / 10)
    notices = [text for text in watcher.texts if "left out" in text]
    assert len(notices) == 2


def test_what_a_call_printed_last_comes_before_its_end(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = BACKLOG_BYTES
    watcher.screen.show(lines(1, pid=7))
    watcher.screen.ended(8)
    assert watcher.texts == []
    watcher.screen.ended(7)
    assert watcher.texts == ["line 1"]


def test_a_driver_that_reads_nothing_at_all_costs_no_more(watcher: Watcher) -> None:
    watcher.wire.unread_bytes = MAX_UNREAD_BYTES
    watcher.screen.show(lines(1))
    watcher.screen.ended(42)
    assert watcher.texts == []
