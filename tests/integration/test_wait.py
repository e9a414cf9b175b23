"""`wait`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.gates import wait_for

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.buckets]


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def wait_until(gate: Path) -> str:
    wait_for(gate)
    return gate.name


def test_wait_returns_what_is_ready_and_the_rest(tmp_path: Path) -> None:
    slow, fast = wait_until.remote(tmp_path / "gate"), same.remote(1)
    assert ray.wait([slow, fast]) == ([fast], [slow])
    tmp_path.joinpath("gate").touch()
    assert ray.wait([slow]) == ([slow], [])


def test_wait_keeps_the_order_of_its_argument_in_both_lists() -> None:
    refs = [same.remote(number) for number in range(20)]
    ray.get(refs)
    mixed = refs[1::2] + refs[::2]
    ready, rest = ray.wait(mixed, num_returns=7)
    assert ready == mixed[:7]
    assert rest == mixed[7:]


def test_wait_returns_no_more_than_asked_for_though_more_are_ready() -> None:
    refs = [same.remote(number) for number in range(3)]
    ray.get(refs)
    ready, rest = ray.wait(refs)
    assert (len(ready), len(rest)) == (1, 2)


def test_wait_returns_fewer_when_its_time_is_up(tmp_path: Path) -> None:
    slow, fast = wait_until.remote(tmp_path / "gate"), same.remote(1)
    ray.get(fast)
    assert ray.wait([slow, fast], num_returns=2, timeout=0.05) == ([fast], [slow])
    assert ray.wait([slow], timeout=0) == ([], [slow])
    tmp_path.joinpath("gate").touch()
    ray.get(slow)


def test_a_failure_is_ready() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError

    ref = fail.remote()
    assert ray.wait([ref]) == ([ref], [])


def test_a_stored_value_is_ready() -> None:
    ref = ray.put(1)
    assert ray.wait([ref], timeout=0, fetch_local=False) == ([ref], [])


def test_wait_of_nothing_is_nothing() -> None:
    assert ray.wait([]) == ([], [])


def test_results_are_taken_one_by_one_as_they_come(tmp_path: Path) -> None:
    gates = [tmp_path / str(number) for number in range(4)]
    pending = [wait_until.options(num_cpus=0).remote(gate) for gate in gates]
    order = []
    for gate in (gates[2], gates[0], gates[3], gates[1]):
        gate.touch()
        (ready,), pending = ray.wait(pending)
        order.append(ray.get(ready))
    assert order == ["2", "0", "3", "1"]


def test_wait_works_in_a_task(tmp_path: Path) -> None:
    @ray.remote
    def first_of(refs: list[ray.ObjectRef[Any]]) -> tuple[list[Any], int]:
        ready, rest = ray.wait(refs)
        return ray.get(ready), len(rest)

    slow = wait_until.remote(tmp_path / "gate")
    assert ray.get(first_of.remote([slow, same.remote("fast")])) == (["fast"], 1)
    tmp_path.joinpath("gate").touch()
    ray.get(slow)


#: For a type checker some of these calls are errors, too.
WAIT: Any = ray.wait


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (ray.wait, TypeError, "got a single ObjectRef"),
        (lambda ref: WAIT({ref}), TypeError, "expected a list of ObjectRef"),
        (lambda ref: WAIT([ref, 3]), TypeError, "containing <class 'int'>"),
        (lambda ref: ray.wait([ref, ref]), ValueError, "a list of unique"),
        (lambda ref: ray.wait([ref], num_returns=0), ValueError, "Invalid number of objects"),
        (lambda ref: ray.wait([ref], num_returns=2), ValueError, "cannot be greater than"),
        (lambda ref: ray.wait([ref], timeout=-1), ValueError, "must be nonnegative"),
    ],
)
def test_wait_refuses_what_makes_no_sense(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        arguments(same.remote(1))
