from __future__ import annotations

from random import Random

from cloudray.store import Backoff


def test_waits_double_with_jitter_and_stay_below_the_longest() -> None:
    backoff = Backoff(first_s=1.0, longest_s=60.0)
    rng = Random(1)
    for attempt in range(12):
        ceiling_s = min(60.0, 2.0**attempt)
        waits = [backoff.delay_s(attempt, rng) for _ in range(50)]
        assert all(ceiling_s / 2 <= wait <= ceiling_s for wait in waits)
        assert len(set(waits)) > 40


def test_the_same_seed_waits_the_same() -> None:
    assert Backoff().delay_s(3, Random(7)) == Backoff().delay_s(3, Random(7))


def test_no_attempt_is_too_late() -> None:
    assert Backoff().delay_s(10_000, Random(1)) <= 5.0
