from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.protocol.batching import MAX_TASKS, DurationBook, batch_limit
from cloudray.protocol.records import Duration


def limit(
    mean_us: float | None,
    *,
    slots: int = 4,
    commit_s: float = 1.0,
    submitted: int = 0,
    agents: int = 2,
) -> int:
    return batch_limit(mean_us, slots=slots, commit_s=commit_s, submitted=submitted, agents=agents)


# -- the size of batches -------------------------------------------------------------------


def test_measured_work_keeps_the_slots_busy_for_half_a_commit_interval() -> None:
    assert limit(20_000.0) == 100


def test_a_long_task_travels_alone() -> None:
    assert limit(3_600e6) == 1


def test_no_batch_is_larger_than_the_largest() -> None:
    assert limit(0.0) == MAX_TASKS


def test_unmeasured_work_is_dealt_out_evenly() -> None:
    assert limit(None, submitted=999, agents=10) == 100


def test_the_first_unmeasured_task_travels_alone() -> None:
    assert limit(None, submitted=0, agents=10) == 1


@pytest.mark.parametrize("agents", [0, 1])
def test_unmeasured_work_for_a_single_agent_fills_whole_batches(agents: int) -> None:
    assert limit(None, agents=agents) == MAX_TASKS


@given(
    st.none() | st.floats(0, 1e12),
    st.integers(1, 10_000),
    st.floats(0.001, 60),
    st.integers(0, 10**7),
    st.integers(0, 5_000),
)
def test_a_batch_has_at_least_one_task_and_never_too_many(
    mean_us: float | None, slots: int, commit_s: float, submitted: int, agents: int
) -> None:
    size = limit(mean_us, slots=slots, commit_s=commit_s, submitted=submitted, agents=agents)
    assert 1 <= size <= MAX_TASKS


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_longer_tasks_never_make_larger_batches(one_us: float, other_us: float) -> None:
    assert limit(max(one_us, other_us)) <= limit(min(one_us, other_us))


# -- what is known of durations ------------------------------------------------------------


def test_a_function_that_was_never_measured_is_unknown() -> None:
    assert DurationBook().mean_us("f") is None


def test_the_first_measurement_is_taken_as_it_is() -> None:
    book = DurationBook()
    book.note(Duration("f", 4, 1000))
    assert book.mean_us("f") == 250.0


def test_a_measurement_of_no_calls_says_nothing() -> None:
    book = DurationBook()
    book.note(Duration("f", 0, 1000))
    assert book.mean_us("f") is None


def test_functions_are_known_apart() -> None:
    book = DurationBook()
    book.note(Duration("f", 1, 1))
    assert book.mean_us("g") is None


def test_a_later_measurement_moves_the_mean_towards_it() -> None:
    book = DurationBook()
    book.note(Duration("f", 1, 100))
    book.note(Duration("f", 1, 200))
    assert book.mean_us("f") == pytest.approx(130.0)


def test_a_group_of_calls_moves_the_mean_further_than_one_call() -> None:
    one, many = DurationBook(), DurationBook()
    for book, calls in ((one, 1), (many, 8)):
        book.note(Duration("f", 1, 100))
        book.note(Duration("f", calls, 200 * calls))
    assert 100 < (one.mean_us("f") or 0) < (many.mean_us("f") or 0) < 200


def test_the_mean_follows_a_function_that_became_slower() -> None:
    book = DurationBook()
    book.note(Duration("f", 8, 80))
    for _ in range(40):
        book.note(Duration("f", 1, 1000))
    assert book.mean_us("f") == pytest.approx(1000, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10**9)), min_size=1))
def test_the_mean_stays_between_the_shortest_and_the_longest(
    measured: list[tuple[int, int]],
) -> None:
    book = DurationBook()
    for calls, total_us in measured:
        book.note(Duration("f", calls, total_us))
    means = [total_us / calls for calls, total_us in measured]
    mean_us = book.mean_us("f")
    assert mean_us is not None
    assert min(means) * 0.999 <= mean_us <= max(means) * 1.001
