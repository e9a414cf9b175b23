"""`get` and `put`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cloudray as ray
from cloudray import ids
from tests.integration.gates import wait_for

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.buckets]

#: Larger than what travels with a batch or a result.
LARGE_BYTES = 3_000_000


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def wait_until(gate: Path) -> str:
    wait_for(gate)
    return gate.name


@ray.remote
def fail(message: str) -> None:
    raise ValueError(message)


def test_get_returns_the_value_of_one_ref() -> None:
    assert ray.get(same.remote("value")) == "value"


def test_get_returns_the_values_of_a_list_in_its_order() -> None:
    refs = [same.remote(number) for number in range(100)]
    assert ray.get(refs[::-1]) == list(range(100))[::-1]


def test_get_takes_one_ref_several_times() -> None:
    ref = same.remote(1)
    assert ray.get([ref, ref]) == [1, 1]


def test_get_of_nothing_is_nothing() -> None:
    assert ray.get([]) == []


def test_get_raises_the_first_error_without_waiting_for_the_rest(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    never_until_then = wait_until.remote(gate)
    with pytest.raises(ValueError, match="at once"):
        ray.get([never_until_then, fail.remote("at once")])
    gate.touch()
    assert ray.get(never_until_then) == "gate"


def test_get_with_timeout_zero_takes_what_is_there() -> None:
    ref = same.remote(1)
    ray.wait([ref])
    assert ray.get(ref, timeout=0) == 1


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_get_says_what_was_not_ready_in_time(tmp_path: Path, timeout_s: float) -> None:
    gate = tmp_path / "gate"
    ref = wait_until.remote(gate)
    with pytest.raises(ray.exceptions.GetTimeoutError, match=ids.short(ref.id)) as raised:
        ray.get([same.remote(1), ref], timeout=timeout_s)
    assert isinstance(raised.value, TimeoutError)
    gate.touch()
    assert ray.get(ref) == "gate"


def test_get_refuses_what_is_neither_a_ref_nor_a_list() -> None:
    refs = (same.remote(number) for number in range(2))
    wrong: Any
    for wrong in (3, "ref", refs, {}):
        with pytest.raises(ValueError, match="Invalid type of object refs"):
            ray.get(wrong)


def test_get_refuses_a_list_of_other_things() -> None:
    with pytest.raises(TypeError, match="on the value 3, which is not an ObjectRef: item 1"):
        ray.get([same.remote(1), 3])  # type: ignore[list-item]


def test_get_refuses_a_negative_timeout() -> None:
    with pytest.raises(ValueError, match="must be nonnegative"):
        ray.get(same.remote(1), timeout=-1)


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 2.5, "text", b"bytes", (), [1, [2]], {"key": {"inner": {3}}}, range(3)],
    ids=repr,
)
def test_a_value_comes_back_from_the_store_and_from_a_task(value: object) -> None:
    ref = ray.put(value)
    assert ray.get(ref) == value
    assert ray.get(same.remote(ref)) == value
    assert type(ray.get(same.remote(value))) is type(value)


def test_a_function_is_a_value_too() -> None:
    offset = 3
    assert ray.get(same.remote(ray.put(lambda number: number + offset)))(4) == 7


def test_a_large_value_comes_back_from_the_store_and_from_a_task() -> None:
    value = bytes(range(250)) * (LARGE_BYTES // 250)
    assert ray.get(ray.put(value)) == value
    assert ray.get(same.remote(value)) == value
    assert ray.get(same.remote(ray.put([value, 1]))) == [value, 1]


def test_put_stores_the_value_as_it_is_then() -> None:
    value = [1]
    ref = ray.put(value)
    value.append(2)
    assert ray.get(ref) == [1]


def test_each_get_returns_a_value_of_its_own() -> None:
    ref = ray.put([1])
    ray.get(ref).append(2)
    assert ray.get(ref) == [1]


def test_an_array_is_read_only_and_not_copied() -> None:
    array = np.arange(LARGE_BYTES)
    ref = ray.put(array)
    first = ray.get(ref)
    assert np.array_equal(first, array)
    assert not first.flags.writeable
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_an_array_is_read_only_in_a_task_too() -> None:
    @ray.remote
    def describe(array: Any) -> tuple[bool, bool, int]:
        return array.flags.writeable, array.flags.owndata, int(array.sum())

    array = np.ones(LARGE_BYTES, np.uint8)
    assert ray.get(describe.remote(ray.put(array))) == (False, False, LARGE_BYTES)
    assert ray.get(describe.remote(array)) == (False, False, LARGE_BYTES)


def test_an_array_outlives_the_ref_it_came_from() -> None:
    ref = same.remote(np.arange(LARGE_BYTES))
    array = ray.get(ref)
    del ref
    assert int(array[-1]) == LARGE_BYTES - 1


def test_put_of_a_ref_is_refused() -> None:
    with pytest.raises(TypeError, match="wrap it in a list"):
        _ = ray.put(ray.put(1))


def test_put_keeps_refs_inside_containers() -> None:
    inner = same.remote("inner")
    (found,) = ray.get(ray.put([inner]))
    assert found == inner
    assert ray.get(found) == "inner"


def test_put_names_the_member_that_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match=r"its member \['open'\]\[1\] is a _thread.lock"):
        _ = ray.put({"open": [1, threading.Lock()]})


def test_what_a_task_puts_outlives_the_task() -> None:
    @ray.remote
    def put_in_task(size: int) -> list[ray.ObjectRef[bytes]]:
        return [ray.put(bytes(size)), ray.put(b"small")]

    large, small = ray.get(put_in_task.remote(LARGE_BYTES))
    assert ray.get(same.remote(small)) == b"small"
    assert len(ray.get(large)) == LARGE_BYTES
