"""The sum of the primes below a limit, eight times: one after the other, then in parallel.

    python examples/sum_primes.py
    python examples/sum_primes.py --limit 10_000_000
    python examples/sum_primes.py --address s3://bucket/prefix

The work is plain Python on purpose: the same on every machine, and bound by its processors.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.table import Table

import cloudray as ray


def sum_primes(limit: int) -> int:
    """Add up the primes below `limit`, found by trial division."""
    total = 2 if limit > 2 else 0
    for candidate in range(3, limit, 2):
        divisor = 3
        while divisor * divisor <= candidate:
            if candidate % divisor == 0:
                break
            divisor += 2
        else:
            total += candidate
    return total


def main() -> None:
    """Run it both ways, compare the results and print the times."""
    arguments = parse_arguments()
    limits = [arguments.limit] * arguments.repeat
    console = Console()

    console.print("One after the other ...")
    started = time.perf_counter()
    sequential = [sum_primes(limit) for limit in limits]
    sequential_s = time.perf_counter() - started

    console.print("In parallel ...")
    started = time.perf_counter()
    ray.init(address=arguments.address)
    init_s = time.perf_counter() - started

    started = time.perf_counter()
    remote_sum_primes = ray.remote(sum_primes)
    parallel = ray.get([remote_sum_primes.remote(limit) for limit in limits])
    parallel_s = time.perf_counter() - started

    cpus = ray.cluster_resources().get("CPU", 0)
    ray.shutdown()

    if parallel != sequential:
        message = f"parallel gave {parallel}, sequential gave {sequential}"
        raise SystemExit(message)

    table = Table(title=f"{arguments.repeat} x sum of the primes below {arguments.limit:,}")
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("each sum", justify="right")
    table.add_row("one after the other", f"{sequential_s:.2f}", f"{sequential[0]:,}")
    table.add_row("ray.init()", f"{init_s:.2f}", "")
    table.add_row(f"in parallel on {cpus:g} CPUs", f"{parallel_s:.2f}", f"{parallel[0]:,}")
    table.add_section()
    table.add_row("speed-up", f"{sequential_s / parallel_s:.2f} x", "same results")
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--limit",
        type=int,
        default=1_000_000,
        help="add up the primes below this; underscores are welcome (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat", type=int, default=8, help="how many times (default: %(default)s)"
    )
    parser.add_argument(
        "--address", help="where the cluster lies, e.g. file:///dir (default: this machine)"
    )
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
