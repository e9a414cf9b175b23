from __future__ import annotations

import io
from collections import Counter

import pytest

from benchmarks.document import ON_STORAGE
from benchmarks.storage.run import Sample, as_markdown, await_line, rows


def sample(tasks: int, seconds: float, **requests: int) -> Sample:
    return Sample(tasks, seconds, Counter(requests))


def test_medians_are_compared_with_the_goals() -> None:
    ours, plain, lithops = rows(
        {
            "cloudray": [sample(1000, 0.1), sample(1000, 9.0), sample(1000, 0.2)],
            "plain": [sample(1000, 2.0)],
            "lithops": [sample(1000, 9.9)],
        }
    )
    assert (ours[-2], ours[-1]) == ("", "")
    assert (plain[-2], plain[-1]) == ("10 x", "10 x: hit")
    assert (lithops[-2], lithops[-1]) == ("49.5 x", "50 x: miss")


def test_fewer_tasks_are_scaled_and_shown() -> None:
    _, scaled = rows(
        {"cloudray": [sample(1000, 0.5)], "lithops-default": [sample(100, 30.0, PUT=200)]}
    )
    assert scaled[1:] == ("100", "1", "300.000", "3", "2.000", "200 PUT", "600 x", "")


def test_the_part_of_the_document_can_be_found_again() -> None:
    assert as_markdown({"cloudray": [sample(1000, 0.5)]}).startswith(ON_STORAGE)


def test_a_peer_may_print_lines_of_its_own() -> None:
    output = io.StringIO("\n  hello\ntook 1.5\nmore\n")
    assert await_line(output, "took", "lithops") == "1.5"


def test_a_peer_that_ends_early_is_named() -> None:
    with pytest.raises(SystemExit, match="lithops ended before it was ready"):
        await_line(io.StringIO("\n"), "ready", "lithops")
