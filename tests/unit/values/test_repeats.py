from __future__ import annotations

import numpy as np
import pytest

from cloudray.values import repeats
from cloudray.values.repeats import WARN_TIMES, Repeats

SIZE = 1000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "WARN_BYTES", 10 * SIZE)


class Table:
    """A large value that does not say how large it is."""


def passed(seen: Repeats, times: int, *args: object, **kwargs: object) -> list[int]:
    """In which of so many calls with these arguments something is to be told."""
    return [n for n in range(1, times + 1) if seen.note(args, kwargs, SIZE) is not None]


def test_it_is_told_once_when_the_copies_come_to_much() -> None:
    array = np.zeros(SIZE, np.uint8)
    assert passed(Repeats(), 100, array) == [10]


def test_it_is_told_how_large_the_argument_is_and_how_often_it_came() -> None:
    seen, array = Repeats(), np.zeros(20 * SIZE, np.uint8)
    told = [seen.note((1, array), {}, 21 * SIZE) for _ in range(WARN_TIMES)]
    assert told == [None] * (WARN_TIMES - 1) + [(20 * SIZE, WARN_TIMES)]


def test_an_argument_by_keyword_counts_too() -> None:
    assert passed(Repeats(), 20, key=np.zeros(SIZE, np.uint8)) == [10]


def test_arrays_that_are_made_anew_are_not_the_same_argument() -> None:
    seen = Repeats()
    assert [seen.note((np.zeros(SIZE, np.uint8),), {}, SIZE) for _ in range(100)] == [None] * 100


def test_a_value_without_a_known_size_counts_where_it_is_the_only_one() -> None:
    table = Table()
    assert passed(Repeats(), 20, table) == [10]
    assert passed(Repeats(), 20, table, 1) == []


def test_a_value_that_cannot_be_watched_is_never_told() -> None:
    value = bytes(SIZE)
    assert passed(Repeats(), 100, value) == []


def test_what_is_watched_is_not_kept_alive() -> None:
    seen, array = Repeats(), np.zeros(SIZE, np.uint8)
    passed(seen, 3, array)
    assert seen._last is not None
    del array
    assert seen._last() is None
