"""What type checkers must accept and refuse; it is checked, never run.

A line that ends with `# type: ignore` must be refused, every other one accepted.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, assert_type

import cloudray as ray


class Row(TypedDict):
    colour: str


@ray.remote
def f(a: int, b: str = "x") -> float:
    return a + len(b)


def ints(ref_int: ray.ObjectRef[int], ref_str: ray.ObjectRef[str]) -> None:
    """Plain values and references, in any mixture by position."""
    assert_type(f.remote(1), ray.ObjectRef[float])
    assert_type(f.remote(1, "y"), ray.ObjectRef[float])
    assert_type(f.remote(a=1, b="y"), ray.ObjectRef[float])
    assert_type(f.remote(1, b="y"), ray.ObjectRef[float])
    assert_type(f.remote(ref_int), ray.ObjectRef[float])
    assert_type(f.remote(1, ref_str), ray.ObjectRef[float])
    assert_type(f.remote(ref_int, "y"), ray.ObjectRef[float])
    assert_type(f.remote(ref_int, ref_str), ray.ObjectRef[float])
    assert_type(f.remote(ref_int, b="y"), ray.ObjectRef[float])


def mistakes(ref_int: ray.ObjectRef[int], ref_str: ray.ObjectRef[str]) -> None:
    """Every argument is checked, and so is their number."""
    f.remote()  # type: ignore[call-overload]
    f.remote("x")  # type: ignore[call-overload]
    f.remote(1, 2)  # type: ignore[call-overload]
    f.remote(1, "y", 3)  # type: ignore[call-overload]
    f.remote(1, c=3)  # type: ignore[call-overload]
    f.remote(1, b=3)  # type: ignore[call-overload]
    f.remote(ref_str)  # type: ignore[arg-type]
    f.remote(1, ref_int)  # type: ignore[arg-type]
    f.remote(ref_int, ref_int)  # type: ignore[arg-type]
    f.remote(ref_int, b=3)  # type: ignore[call-overload]
    f.remote(ref_int, ref_str, 3)  # type: ignore[call-overload]
    f(1)  # type: ignore[operator]


def options(ref_int: ray.ObjectRef[int]) -> None:
    """They are checked, and keep the type unless `num_returns` changes it."""
    assert_type(f.options(num_cpus=2, name="f").remote(ref_int), ray.ObjectRef[float])
    assert_type(f.options(num_returns=0).remote(ref_int), None)
    assert_type(f.options(num_returns=3).remote(ref_int), list[ray.ObjectRef[Any]])
    assert_type(f.options(retry_exceptions=[OSError]).remote(1), ray.ObjectRef[float])
    f.options(num_cpu=2)  # type: ignore[call-overload]
    f.options(num_cpus="2")  # type: ignore[call-overload]
    f.options(max_calls=1)  # type: ignore[call-overload]
    f.options(num_cpus=2).remote("x")  # type: ignore[call-overload]


@ray.remote(num_cpus=2, max_calls=1, runtime_env={"env_vars": {"LEVEL": "3"}})
def with_options(rows: list[Row], *, limit: int | None = None) -> dict[str, int]:
    return {row["colour"]: limit or 0 for row in rows}


def keeps_its_type(rows: ray.ObjectRef[list[Row]]) -> None:
    """With keywords `remote` gives the same type as without."""
    assert_type(with_options.remote(rows, limit=3), ray.ObjectRef[dict[str, int]])
    assert_type(with_options.remote([{"colour": "red"}]), ray.ObjectRef[dict[str, int]])
    with_options.remote(rows, limit="3")  # type: ignore[call-overload]
    with_options.remote([1])  # type: ignore[list-item]


@ray.remote(num_returns=2)
def pair(a: int) -> tuple[int, str]:
    return a, str(a)


@ray.remote(num_returns=0)
def silent(a: int) -> None:
    del a


@ray.remote(num_returns=1)
def single(a: int) -> str:
    return str(a)


def counts(ref_int: ray.ObjectRef[int], number: int) -> None:
    """Several results are a list of references, no result is None."""
    assert_type(pair.remote(ref_int), list[ray.ObjectRef[Any]])
    assert_type(silent.remote(1), None)
    assert_type(single.remote(ref_int), ray.ObjectRef[str])
    assert_type(f.options(num_returns=number).remote(1), Any)


@ray.remote
async def coroutine(a: int) -> str:
    return str(a)


@ray.remote(num_cpus=0)
async def coroutine_with_options(a: int) -> str:
    return str(a)


def awaited(ref_int: ray.ObjectRef[int]) -> None:
    """A reference to a coroutine's result is one to what it returns."""
    assert_type(coroutine.remote(ref_int), ray.ObjectRef[str])
    assert_type(coroutine_with_options.remote(3), ray.ObjectRef[str])


@ray.remote
def add(*numbers: int) -> int:
    return sum(numbers)


@ray.remote
def nothing() -> None:
    return None


@ray.remote
def ten(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int, j: str) -> int:
    return a + b + c + d + e + f + g + h + i + len(j)


def shapes(refs: list[ray.ObjectRef[int]], numbers: list[int], i: ray.ObjectRef[int]) -> None:
    """Any number of arguments, none, and ten."""
    assert_type(add.remote(1, i, 2), ray.ObjectRef[int])
    assert_type(add.remote(*refs), ray.ObjectRef[int])
    assert_type(add.remote(*numbers), ray.ObjectRef[int])
    assert_type(nothing.remote(), ray.ObjectRef[None])
    assert_type(ten.remote(1, i, 3, i, 5, i, 7, i, 9, "j"), ray.ObjectRef[int])
    add.remote("x")  # type: ignore[call-overload]
    nothing.remote(1)  # type: ignore[call-overload]
    ten.remote(1, i, 3, i, 5, i, 7, i, 9, i)  # type: ignore[arg-type]


@ray.remote
def lenient(a: float, b: int | str, c: Sequence[int]) -> bool:
    return a > len(c) and bool(b)


def subtypes(i: ray.ObjectRef[int], s: ray.ObjectRef[str], ints: ray.ObjectRef[list[int]]) -> None:
    """A reference to a value that would do, does."""
    assert_type(lenient.remote(i, s, ints), ray.ObjectRef[bool])
    assert_type(lenient.remote(1, i, [1]), ray.ObjectRef[bool])
    assert_type(lenient.remote(1, 2, c=(1, 2)), ray.ObjectRef[bool])
    lenient.remote(s, s, ints)  # type: ignore[arg-type]


def values(refs: list[ray.ObjectRef[float]], number: int) -> None:
    """`get` undoes what `.remote()` and `put` do."""
    assert_type(ray.get(f.remote(1)), float)
    assert_type(ray.get(refs), list[float])
    assert_type(ray.get([f.remote(step) for step in range(3)], timeout=1.0), list[float])
    assert_type(ray.put("x"), ray.ObjectRef[str])
    assert_type(ray.get(ray.put([1])), list[int])
    assert_type(ray.get(f.options(num_cpus=2).remote(ray.put(1))), float)
    ray.get(number)  # type: ignore[call-overload]
    ray.remote(num_cpu=1)  # type: ignore[call-overload]


def waiting(refs: list[ray.ObjectRef[float]]) -> None:
    """`wait` splits references and keeps their type."""
    ready, pending = ray.wait(refs, num_returns=2, timeout=0.5)
    assert_type(ready, list[ray.ObjectRef[float]])
    assert_type(pending, list[ray.ObjectRef[float]])


def joining() -> None:
    """`init` is checked too, also what it accepts without effect."""
    ray.init("local", num_cpus=2, memory="2 GB", include_dashboard=False)
    ray.init(num_cpus=2, runtime_env={"env_vars": {"LEVEL": "3"}}, progress=False)
    ray.init(num_cpu=2)  # type: ignore[call-arg]
    ray.init(num_cpus="2")  # type: ignore[arg-type]
    ray.init(traceback="long")  # type: ignore[arg-type]
    assert_type(ray.settings()["num_cpus"], Any)
    assert_type(ray.settings().source("num_cpus"), str)
