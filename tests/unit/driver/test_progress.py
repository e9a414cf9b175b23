from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloudray import ids
from cloudray.driver.progress import PATIENCE_S, Progress, Report
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Entry, Word
from cloudray.refs import ObjectRef
from tests.unit.protocol.builders import done, failed, moved, started

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 1)
OTHER = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 2)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Board:
    """A display that remembers what it shows."""

    def __init__(self) -> None:
        self.shown: Report | None = None
        self.count = 0

    def show(self, report: Report) -> None:
        self.shown = report
        self.count += 1

    def clear(self) -> None:
        self.shown = None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def journals() -> dict[bytes, Journal]:
    return {BATCH: Journal(BATCH, 10), OTHER: Journal(OTHER, 10)}


@pytest.fixture
def progress(journals: dict[bytes, Journal], board: Board, clock: Clock) -> Progress:
    return Progress(journals, lambda: board, clock)


def refs(*indexes: int, batch: bytes = BATCH) -> list[ObjectRef[Any]]:
    return [ObjectRef(ids.object_id(batch, index)) for index in indexes]


def say(journal: Journal, *words: Word) -> None:
    journal.apply(Entry(1, words))


def pass_time(progress: Progress, clock: Clock, seconds: float) -> None:
    """Let time pass, during which the background looks now and then."""
    end_s = clock.now_s + seconds
    while clock.now_s < end_s:
        progress.look()
        clock.now_s = min(end_s, clock.now_s + 0.05)
    progress.look()


def elsewhere(work: Callable[[], None]) -> None:
    """Do something on another thread, which stays alive, so that its number stays taken."""
    ready, forever = threading.Event(), threading.Event()

    def run() -> None:
        work()
        ready.set()
        forever.wait(60)

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(60)


def test_a_short_wait_shows_nothing(progress: Progress, board: Board, clock: Clock) -> None:
    progress.begin(refs(0), 1)
    pass_time(progress, clock, PATIENCE_S - 0.01)
    assert board.count == 0
    progress.end()
    pass_time(progress, clock, 60)
    assert board.count == 0


def test_many_short_waits_show_nothing(progress: Progress, board: Board, clock: Clock) -> None:
    for _ in range(20):
        progress.begin(refs(0), 1)
        pass_time(progress, clock, PATIENCE_S / 2)
        progress.end()
    assert board.count == 0


def test_a_long_wait_shows_what_is_done_what_runs_and_what_is_queued(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    progress.begin(refs(*range(5)), 5)
    say(journals[BATCH], started(0), started(1), started(2), done(0), failed(1))
    pass_time(progress, clock, PATIENCE_S)
    shown = board.shown
    assert shown is not None
    assert (shown.total, shown.done, shown.failed, shown.running, shown.queued) == (5, 2, 1, 1, 2)


def test_nothing_is_left_when_the_wait_ends(progress: Progress, board: Board, clock: Clock) -> None:
    progress.begin(refs(0), 1)
    pass_time(progress, clock, 2)
    assert board.shown is not None
    progress.end()
    assert board.shown is None
    pass_time(progress, clock, 60)
    assert board.shown is None


def test_what_others_wait_for_is_not_counted(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    progress.begin(refs(3, 4), 2)
    say(journals[BATCH], *(done(index) for index in range(4)))
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert (board.shown.done, board.shown.total) == (1, 2)


def test_the_values_of_one_task_count_once(progress: Progress, board: Board, clock: Clock) -> None:
    both: list[ObjectRef[Any]] = [ObjectRef(ids.object_id(BATCH, 0, number)) for number in (0, 1)]
    progress.begin(both, 2)
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert board.shown.total == 1


def test_values_that_were_put_are_no_tasks(progress: Progress, board: Board, clock: Clock) -> None:
    progress.begin([*refs(0), ObjectRef(ids.object_id(OTHER, ids.PUT_INDEX))], 1)
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert board.shown.total == 1


def test_a_task_that_was_given_away_is_followed(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    progress.begin(refs(0, 1), 2)
    say(journals[BATCH], moved(0, OTHER, 5))
    say(journals[OTHER], started(5))
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert (board.shown.done, board.shown.running, board.shown.queued) == (0, 1, 1)
    say(journals[OTHER], done(5))
    pass_time(progress, clock, 1)
    assert (board.shown.done, board.shown.running, board.shown.queued) == (1, 0, 1)


def test_rate_and_time_left_come_from_what_ended_since_the_wait_began(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    say(journals[BATCH], done(0), done(1))
    progress.begin(refs(*range(10)), 8)
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert (board.shown.per_second, board.shown.eta_s) == (0, None)
    say(journals[BATCH], done(2), done(3), done(4), done(5))
    pass_time(progress, clock, 2)
    assert board.shown.per_second == pytest.approx(1.0, rel=0.2)
    assert board.shown.eta_s == pytest.approx(4.0, rel=0.2)


def test_who_waits_for_a_few_is_told_when_those_are_there(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    progress.begin(refs(*range(10)), 10, 5)
    pass_time(progress, clock, 2)
    say(journals[BATCH], *(done(index) for index in range(4)))
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert board.shown.eta_s == pytest.approx(1.0, rel=0.2)


def test_threads_that_wait_share_one_line_and_nothing_counts_twice(
    progress: Progress, board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    progress.begin(refs(0, 1, 2), 3)
    elsewhere(lambda: progress.begin(refs(2, 3), 2))
    say(journals[BATCH], done(2))
    pass_time(progress, clock, 2)
    assert board.shown is not None
    assert (board.shown.total, board.shown.done) == (4, 1)
    progress.end()
    pass_time(progress, clock, 1)
    assert board.shown is not None
    assert (board.shown.total, board.shown.done) == (2, 1)


def test_a_short_wait_of_another_thread_changes_nothing(
    progress: Progress, board: Board, clock: Clock
) -> None:
    progress.begin(refs(0, 1), 2)
    pass_time(progress, clock, 2)
    elsewhere(lambda: progress.begin(refs(5), 1))
    pass_time(progress, clock, PATIENCE_S / 2)
    assert board.shown is not None
    assert board.shown.total == 2


def test_a_wait_whose_end_was_missed_is_not_shown_for_ever(
    progress: Progress, board: Board, clock: Clock
) -> None:
    progress.begin(refs(0), 1)
    pass_time(progress, clock, 2)
    progress.waits.clear()
    pass_time(progress, clock, 1)
    assert board.shown is None
    assert not progress.active


def test_it_is_drawn_a_few_times_a_second(progress: Progress, board: Board, clock: Clock) -> None:
    progress.begin(refs(0), 1)
    pass_time(progress, clock, PATIENCE_S + 10)
    assert 20 <= board.count <= 52


def test_where_counting_takes_long_it_is_drawn_less_often(
    board: Board, clock: Clock, journals: dict[bytes, Journal]
) -> None:
    class Slow(dict[bytes, Journal]):
        def get(self, *args: Any) -> Any:
            clock.now_s += 0.1
            return super().get(*args)

    progress = Progress(Slow(journals), lambda: board, clock)
    progress.begin(refs(0), 1)
    pass_time(progress, clock, PATIENCE_S + 20)
    # Two looks at a journal of 0.1 s each may take a twentieth of the time.
    assert 3 <= board.count <= 6


def test_where_nobody_looks_nothing_is_counted(
    clock: Clock, journals: dict[bytes, Journal]
) -> None:
    asked: list[bool] = []

    def no_display() -> None:
        asked.append(True)

    progress = Progress(journals, no_display, clock)
    for _ in range(3):
        progress.begin(refs(0), 1)
        pass_time(progress, clock, 5)
        progress.end()
    assert asked == [True]


def test_a_driver_that_leaves_takes_its_line_along(
    progress: Progress, board: Board, clock: Clock
) -> None:
    progress.begin(refs(0), 1)
    pass_time(progress, clock, 2)
    progress.close()
    assert board.shown is None
    pass_time(progress, clock, 2)
    assert board.shown is None
