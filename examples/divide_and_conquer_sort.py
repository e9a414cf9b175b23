"""Merge sort by divide and conquer: tasks that submit tasks and wait for them.

    python examples/divide_and_conquer_sort.py
    python examples/divide_and_conquer_sort.py --size 2_000_000 --leaf 100_000

Each task halves its list, hands the halves to two tasks of its own and merges what they give
back. A task that waits lends its processor, so the depth of the tree may exceed their number.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time

from rich.console import Console

import cloudray as ray


@ray.remote
def merge_sort(numbers: list[float], leaf: int) -> list[float]:
    """Sort: lists of up to `leaf` numbers here, longer ones by two tasks."""
    if len(numbers) <= leaf:
        return sorted(numbers)
    middle = len(numbers) // 2
    halves = [
        merge_sort.remote(numbers[:middle], leaf),
        merge_sort.remote(numbers[middle:], leaf),
    ]
    return list(heapq.merge(*ray.get(halves)))


def tasks_needed(size: int, leaf: int) -> int:
    """How many tasks `merge_sort` takes in all."""
    if size <= leaf:
        return 1
    return 1 + tasks_needed(size // 2, leaf) + tasks_needed(size - size // 2, leaf)


def main() -> None:
    """Sort random numbers and check the result."""
    arguments = parse_arguments()
    generator = random.Random(arguments.seed)
    numbers = [generator.random() for _ in range(arguments.size)]

    ray.init(address=arguments.address)
    started = time.perf_counter()
    result = ray.get(merge_sort.remote(numbers, arguments.leaf))
    elapsed_s = time.perf_counter() - started
    ray.shutdown()

    if result != sorted(numbers):
        message = "the result is not sorted"
        raise SystemExit(message)
    tasks = tasks_needed(arguments.size, arguments.leaf)
    Console().print(f"Sorted {arguments.size:,} numbers with {tasks:,} tasks in {elapsed_s:.2f} s.")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--size", type=int, default=400_000, help="how many numbers (default: %(default)s)"
    )
    parser.add_argument(
        "--leaf",
        type=int,
        default=25_000,
        help="lists up to this length are sorted by one task (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the numbers (default: 1)")
    parser.add_argument(
        "--address", help="where the cluster lies, e.g. file:///dir (default: this machine)"
    )
    arguments = parser.parse_args()
    if arguments.leaf < 1:
        parser.error("--leaf must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
