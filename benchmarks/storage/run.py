"""Measure CloudRay beside Lithops and a plain boto3 worker on one LocalStack, by turns.

    make bench-s3
    make bench-s3 ARGS="--rounds 1 --tasks 100"

Every peer runs in a process of its own, reaches S3 through a relay that counts its requests, and
is warm before it is measured. A complete run also writes its part of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.report import cpu_model
from benchmarks.storage.relay import Relay
from tests.servers import BUCKET, CREDENTIALS, Server, localstack

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
HEADING = "## On object storage"
LITHOPS = ROOT / ".bench" / "lithops" / "bin" / "python"
PYTHON = {"cloudray": Path(sys.executable), "lithops": LITHOPS, "plain": Path(sys.executable)}
TITLES = {"cloudray": "CloudRay", "lithops": "Lithops 3.8", "plain": "boto3, one object per task"}
#: How many times faster than a peer CloudRay ought to be.
GOALS = {"lithops": 50, "plain": 10}
TASKS = 1000
#: Lithops starts a process for each task, and takes minutes.
ROUNDS = {"cloudray": 5, "plain": 5, "lithops": 1}
LIMIT_S = 600


class Sample(NamedTuple):
    """One measurement."""

    seconds: float
    requests: Counter[str]


def measure(peer: str, server: Server, serial: int, tasks: int) -> Sample:
    """Run one peer once."""
    with Relay(server.port) as relay:
        endpoint = f"http://127.0.0.1:{relay.port}"
        environment = {
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": endpoint,
            "BENCHMARK_BUCKET": BUCKET,
            "BENCHMARK_ADDRESS": f"s3://{BUCKET}/bench-{serial}?endpoint={endpoint}",
            "PYTHONPATH": str(ROOT),
        }
        with subprocess.Popen(
            [str(PYTHON[peer]), "-m", "benchmarks.storage.measure", peer, str(tasks)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            output, orders = process.stdout, process.stdin
            if output is None or orders is None:
                raise SystemExit("no pipes")
            for line in output:
                if line.strip() == "ready":
                    break
            else:
                raise SystemExit(f"{peer} did not get ready")
            relay.take()
            orders.write("go\n")
            orders.flush()
            said = output.readline()
            requests = relay.take()
            orders.close()
            output.read()
            if process.wait(LIMIT_S) != 0 or not said:
                raise SystemExit(f"{peer} failed")
    return Sample(float(said), requests)


def main() -> int:
    """Measure all peers and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="of each; default: 5, and 1 of Lithops")
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--only", choices=PYTHON, action="append")
    arguments = parser.parse_args()
    peers = arguments.only or list(PYTHON)
    console = Console()
    samples: dict[str, list[Sample]] = {peer: [] for peer in peers}
    with localstack() as server:
        rounds = dict.fromkeys(PYTHON, arguments.rounds) if arguments.rounds else ROUNDS
        for turn in range(max(rounds.values())):
            for peer in peers:
                if turn >= rounds[peer]:
                    continue
                sample = measure(peer, server, turn, arguments.tasks)
                samples[peer].append(sample)
                total = sum(sample.requests.values())
                console.print(f"{TITLES[peer]}: {sample.seconds:.3f} s, {total} requests")
    console.print(as_table(samples, arguments.tasks))
    if not arguments.only and rounds == ROUNDS and arguments.tasks == TASKS:
        write(samples, arguments.tasks)
    return 0


def rows(samples: dict[str, list[Sample]], tasks: int) -> list[Sequence[str]]:
    """One row per peer: time, rate, requests, how many times faster CloudRay is, and the goal."""
    seconds = {
        peer: statistics.median(one.seconds for one in many) for peer, many in samples.items()
    }
    found: list[Sequence[str]] = []
    for peer, many in samples.items():
        ratio = seconds[peer] / seconds["cloudray"] if "cloudray" in seconds else 0.0
        goal = GOALS.get(peer)
        spread = f"{min(one.seconds for one in many):.3f} to {max(one.seconds for one in many):.3f}"
        requests = {
            method: statistics.median(one.requests[method] for one in many)
            for method in ("PUT", "GET", "LIST", "POST", "DELETE", "HEAD")
        }
        total = statistics.median(sum(one.requests.values()) for one in many)
        found.append(
            (
                TITLES[peer],
                f"{seconds[peer]:.3f} ({spread})",
                f"{tasks / seconds[peer]:,.0f}",
                f"{total / tasks:.3f}",
                ", ".join(f"{n:g} {method}" for method, n in requests.items() if n),
                f"{ratio:.3g} x" if peer != "cloudray" else "",
                "" if goal is None else f"{goal} x: {'hit' if ratio >= goal else 'miss'}",
            )
        )
    return found


HEADINGS = (
    "",
    "seconds",
    "tasks/s",
    "requests per task",
    "requests",
    "CloudRay is faster by",
    "goal",
)


def as_table(samples: dict[str, list[Sample]], tasks: int) -> Table:
    """The result for a terminal."""
    table = Table(*HEADINGS)
    for row in rows(samples, tasks):
        table.add_row(*row)
    return table


def write(samples: dict[str, list[Sample]], tasks: int) -> None:
    """Put the result into the document, in place of an earlier one."""
    lines: list[Sequence[str]] = [
        HEADINGS,
        ("---", *["--:"] * 3, "---", "--:", "---"),
        *rows(samples, tasks),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    section = f"""{HEADING}

Written by `make bench-s3` on {date} ({cpu_model()}, {os.cpu_count()} cores); do not edit.

{tasks:,} tasks that do nothing, two slots, medians of 5 rounds (Lithops: one) by turns on one
LocalStack 4.14.0 (no container), every peer warm. Requests are counted by a relay in front of it,
between the first call and the last result. Lithops runs with its localhost backend and its minio
storage; the plain worker is benchmarks/storage/plain.py.

{table}
"""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    DOCUMENT.write_text(text.partition(HEADING)[0].rstrip() + "\n\n" + section)


if __name__ == "__main__":
    sys.exit(main())
