"""The six calls through an embedded cluster, as a program: prints what it is run by, and "done"."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import cloudray as ray


@dataclass
class Point:
    """Of a class that only this program has."""

    x: int
    y: int


@ray.remote
def move(point: Point, by: int) -> Point:
    return Point(point.x + by, point.y + by)


@ray.remote(num_returns=2)
def split(values: list[int]) -> tuple[list[int], list[int]]:
    return values[::2], values[1::2]


@ray.remote
def nested(depth: int) -> int:
    return 0 if depth == 0 else 1 + ray.get(nested.remote(depth - 1))


@ray.remote(max_retries=0)
def fail() -> None:
    raise ValueError("out of tea")


async def awaited(ref: Any) -> Any:
    return await ref


def main() -> None:
    ray.init(num_cpus=2)
    assert ray.get(move.remote(ray.put(Point(1, 2)), 3)) == Point(4, 5)
    evens, odds = split.remote(list(range(100_000)))
    ready, rest = ray.wait([evens, odds], num_returns=2)
    assert (len(ready), rest) == (2, [])
    assert ray.get(odds)[:2] == [1, 3]
    assert ray.get(nested.remote(3)) == 3
    assert asyncio.run(awaited(move.remote(Point(0, 0), 1))) == Point(1, 1)
    try:
        ray.get(fail.remote())
    except ValueError as error:
        assert "out of tea" in str(error)  # noqa: PT017 - pytest does not run this
    else:
        raise AssertionError("it did not fail")
    ray.shutdown()
    sys.stdout.write(f"{sys.version_info.major}.{sys.version_info.minor} done\n")


if __name__ == "__main__":
    main()
