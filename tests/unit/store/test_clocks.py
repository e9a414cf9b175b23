from __future__ import annotations

import pytest

from cloudray.store.clocks import describe_skew, skew_in


def test_a_refusal_says_how_far_ahead_a_clock_is() -> None:
    times = (
        "<RequestTime>20260102T040405Z</RequestTime><ServerTime>2026-01-02T03:04:05Z</ServerTime>"
    )
    assert skew_in(times) == 3600


@pytest.mark.parametrize(
    "refusal", ["", "<ServerTime>noon</ServerTime>", "<RequestTime>20260102T040405Z</RequestTime>"]
)
def test_a_refusal_that_does_not_say_the_time_is_not_guessed(refusal: str) -> None:
    assert skew_in(refusal) is None


@pytest.mark.parametrize(
    ("ahead_s", "what"),
    [
        (-1200, "the clock of this machine is 20 min behind that of the store."),
        (4000, "the clock of this machine is 1 h 6 min ahead of that of the store."),
        (None, "the clock of this machine is wrong."),
    ],
)
def test_a_skew_is_told_with_what_to_do(ahead_s: float | None, what: str) -> None:
    said = describe_skew(ahead_s)
    assert said.startswith(what)
    assert "set-ntp" in said
