"""Most of what is refused is in `tests/mistakes`; here is what is not, and what is taken."""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cloudray import ids
from cloudray.api.asked import refs_to_get, refs_to_wait_for, shown, timeout_s
from cloudray.refs import ObjectRef

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 3)
ONE: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 1))
TWO: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 2))


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("given", [0, 0.5, True, np.float32(0.5), np.int64(2), Fraction(1, 2)])
def test_any_number_is_a_timeout(given: Any) -> None:
    assert timeout_s(given) == given


@pytest.mark.parametrize("given", [None, math.inf, 1e300, 10**400, threading.TIMEOUT_MAX * 2])
def test_longer_than_any_clock_counts_is_no_timeout(given: Any) -> None:
    assert timeout_s(given) is None


@pytest.mark.parametrize("given", [1j, "1", b"1", [1], np.array([1, 2])])
def test_what_is_no_number_is_none(given: Any) -> None:
    with pytest.raises(TypeError, match="must be a number of seconds"):
        timeout_s(given)


def test_a_tuple_is_as_good_as_a_list() -> None:
    assert refs_to_get((ONE, TWO)) == (ONE, TWO)
    assert refs_to_wait_for((ONE, TWO), 2) == (ONE, TWO)


def test_one_ref_is_asked_for_as_one_of_one() -> None:
    assert refs_to_get(ONE) == (ONE,)


def test_nothing_may_be_asked_for() -> None:
    assert refs_to_get([]) == []
    assert refs_to_wait_for([], 1) == []


def test_the_first_ref_that_occurs_twice_is_told() -> None:
    with pytest.raises(ValueError, match="items 1 and 2 are the same"):
        refs_to_wait_for([ONE, TWO, TWO, ONE], 1)


def test_how_many_to_wait_for_may_be_a_number_of_numpys() -> None:
    assert refs_to_wait_for([ONE, TWO], np.int64(2)) == [ONE, TWO]


@pytest.mark.parametrize("value", [[0] * 10**6, "x" * 10**6, {n: n for n in range(10**5)}])
def test_a_long_value_is_shown_shortened(value: object) -> None:
    assert len(shown(value)) < 70


def test_a_value_that_cannot_be_shown_is_told_by_its_class() -> None:
    assert shown(Unspeakable()) == "a Unspeakable"
