from __future__ import annotations

import pytest

from cloudray.protocol.failures import (
    Crashed,
    Overtaken,
    Start,
    deaths_before,
    next_step,
    timed_out,
)
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Entry, Shape
from tests.unit.protocol.builders import BATCH_ID, fold, started

FRESH = Journal(BATCH_ID, 2)


def step(
    journal: Journal,
    *,
    claim: int = 1,
    deaths_here: int = 0,
    attempt: int = 0,
    max_retries: int = 3,
    once: bool = False,
) -> Start | Crashed | Overtaken:
    return next_step(
        journal,
        0,
        claim=claim,
        deaths_here=deaths_here,
        attempt=attempt,
        max_retries=max_retries,
        once=once,
    )


def died(*claims: int, once: bool = False) -> Journal:
    """Task 0 was started under these claims, and never ended."""
    return fold(BATCH_ID, *[Entry(claim, (started(0),)) for claim in claims], once=once)


def test_a_fresh_task_starts_without_an_entry() -> None:
    assert step(FRESH) == Start(0, announce=False)


def test_deaths_are_counted_under_earlier_claims_only() -> None:
    assert deaths_before(died(1, 2, 3, 4), 0, 3) == 2


def test_a_neighbour_that_never_started_pays_nothing() -> None:
    assert deaths_before(died(1), 1, 2) == 0


def test_after_a_takeover_a_task_is_announced() -> None:
    assert step(FRESH, claim=2) == Start(0, announce=True)


def test_after_the_death_of_its_executor_a_task_is_announced() -> None:
    assert step(FRESH, deaths_here=1, attempt=1) == Start(1, announce=True)


@pytest.mark.parametrize("deaths_here", [0, 1])
def test_deaths_use_up_retries_wherever_they_happened(deaths_here: int) -> None:
    journal = died(1, 2)
    retries = 2 + deaths_here
    assert step(journal, claim=3, deaths_here=deaths_here, max_retries=retries) == Start(
        0, announce=True
    )
    assert step(journal, claim=3, deaths_here=deaths_here, max_retries=retries - 1) == Crashed(
        2 + deaths_here
    )


def test_a_task_without_a_limit_is_retried_for_ever() -> None:
    assert step(died(*range(1, 50)), claim=50, max_retries=-1) == Start(0, announce=True)


def test_a_task_of_a_larger_batch_that_has_no_retries_crashes_with_the_first_death() -> None:
    assert step(FRESH, max_retries=0) == Start(0, announce=False)
    assert step(died(1), claim=2, max_retries=0) == Crashed(1)


# -- max_retries=0, alone in its batch -----------------------------------------------------


def test_a_task_that_may_run_once_is_always_announced() -> None:
    assert step(FRESH, max_retries=0, once=True) == Start(0, announce=True)


def test_a_task_that_may_have_run_under_an_earlier_claim_is_crashed() -> None:
    assert step(died(1, once=True), claim=2, max_retries=0, once=True) == Crashed(1)


def test_a_task_that_may_have_run_under_our_claim_is_crashed() -> None:
    assert step(died(2, once=True), claim=2, max_retries=0, once=True) == Crashed(1)


def test_a_task_whose_executor_died_is_crashed() -> None:
    assert step(FRESH, deaths_here=1, max_retries=0, once=True) == Crashed(1)


def test_a_task_that_runs_under_a_later_claim_is_left_alone() -> None:
    assert step(died(2, once=True), claim=1, max_retries=0, once=True) == Overtaken(2)


@pytest.mark.parametrize(
    ("max_retries", "retried", "allowed"), [(3, True, 4), (-1, True, -1), (3, False, 0)]
)
def test_the_error_of_a_task_out_of_time_counts_attempts_from_one(
    max_retries: int, retried: bool, allowed: int
) -> None:
    shape = Shape("0f", "f", 1, {}, max_retries, timeout_s=1.5, retry_timeouts=retried)
    error = timed_out(shape, b"\x01\x02", 1)
    assert (error.attempt, error.max_attempts) == (2, allowed)
    assert (error.task_name, error.task_id, error.timeout_s) == ("f", "0102", 1.5)
