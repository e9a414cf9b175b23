from __future__ import annotations

import pytest

from benchmarks.report import FIGURES, Line, compare, number


def line(label: str, ours: list[float], theirs: list[float]) -> Line:
    (figure,) = (figure for figure in FIGURES if figure.label == label)
    return Line(figure, ours, theirs)


@pytest.mark.parametrize(
    ("label", "ours", "theirs", "times", "verdict"),
    [
        ("tasks, one at a time", [100, 300, 900], [100, 90, 120], 3, "hit"),
        ("tasks, one at a time", [299], [100], 2.99, "miss"),
        ("import + init + first result", [0.1], [2.0], 20, "hit"),
        ("import + init + first result", [0.2], [2.0], 10, "miss"),
        ("eight sums of primes, against Pool", [2.0], [1.96], 0.98, "hit"),
        ("eight sums of primes", [2.0], [1.0], 0.5, ""),
    ],
)
def test_medians_are_compared_with_the_goal(
    label: str, ours: list[float], theirs: list[float], times: float, verdict: str
) -> None:
    compared = line(label, ours, theirs)
    assert compared.times_better == pytest.approx(times)
    assert compared.verdict == verdict


@pytest.mark.parametrize(("measured", "verdict"), [(0.02, "hit"), (0.021, "miss")])
def test_requests_per_task_have_an_absolute_bound(measured: float, verdict: str) -> None:
    assert line("storage requests per task", [measured], []).verdict == verdict


def test_a_bound_counts_whatever_the_rival_has() -> None:
    shared = line("all memory, 4 executors sharing 1 GB", [1.1], [1.0])
    assert (shared.verdict, shared.cells()[3:5]) == ("hit", ("0.909 x", "at most 1.2"))
    assert line("all memory, 4 executors sharing 1 GB", [1.3], [2.0]).verdict == "miss"
    assert line("all memory, 4 executors sharing 1 GB", [], [2.0]).verdict == ""


def test_nothing_is_claimed_without_a_rival() -> None:
    alone = line("tasks, one at a time", [1e9], [])
    assert (alone.times_better, alone.verdict) == (None, "")


def test_the_pool_is_a_rival_of_its_own() -> None:
    samples = {("cloudray", "primes"): [2.0], ("ray", "primes"): [4.0], ("pool", "primes"): [2.0]}
    assert [found.times_better for found in compare(samples)] == [2, 1]


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (0.012345, "0.0123"), (99.94, "99.9"), (0, "0")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text
