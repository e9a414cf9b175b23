"""Measure CloudRay beside Lithops and a plain boto3 worker on one LocalStack, by turns.

    make bench-s3
    make bench-s3 ARGS="--rounds 1 --tasks 100"

Every peer runs in a process of its own, reaches S3 through a relay that counts its requests, and
is warm before it is measured. A complete run takes about five minutes, and also writes its part of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.document import ON_STORAGE, write_on_storage
from benchmarks.report import cpu_model
from benchmarks.storage.relay import Relay
from tests.servers import BUCKET, CREDENTIALS, Server, localstack

ROOT = Path(__file__).resolve().parents[2]
LITHOPS = ROOT / ".bench" / "lithops" / "bin" / "python"
TASKS = 1000
LIMIT_S = 600


class Peer(NamedTuple):
    """Who is measured, and how."""

    title: str
    python: Path
    #: of a complete run
    rounds: int
    #: How many times faster CloudRay ought to be.
    goal: int | None = None
    #: not more than so many, for what takes too long otherwise
    most_tasks: int | None = None


PEERS = {
    "cloudray": Peer("CloudRay", Path(sys.executable), 5),
    "plain": Peer("boto3, one object per task", Path(sys.executable), 3, goal=10),
    "lithops": Peer("Lithops 3.8, a pool of processes", LITHOPS, 3, goal=50),
    "lithops-default": Peer("Lithops 3.8, as it comes", LITHOPS, 1, most_tasks=100),
}


class Sample(NamedTuple):
    """One measurement."""

    tasks: int
    seconds: float
    requests: Counter[str]

    @property
    def seconds_per_1000(self) -> float:
        """What 1,000 tasks take, if each takes as long as those that were measured."""
        return self.seconds * 1000 / self.tasks


Samples = Mapping[str, Sequence[Sample]]


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
            [str(PEERS[peer].python), "-m", "benchmarks.storage.measure", peer, str(tasks)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            output, orders = process.stdout, process.stdin
            if output is None or orders is None:
                raise SystemExit("no pipes")
            await_line(output, "ready", peer)
            relay.take()
            orders.write("go\n")
            orders.flush()
            seconds = float(await_line(output, "took", peer))
            requests = relay.take()
            orders.close()
            output.read()
            if process.wait(LIMIT_S) != 0:
                raise SystemExit(f"{peer} failed")
    return Sample(tasks, seconds, requests)


def await_line(output: IO[str], word: str, peer: str) -> str:
    """Read until a line begins with this word; returns what follows it."""
    for line in output:
        first, _, rest = line.strip().partition(" ")
        if first == word:
            return rest
    raise SystemExit(f"{peer} ended before it was {word}")


def main() -> int:
    """Measure all peers and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="of each, instead of 5, 3, 3 and 1")
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--only", choices=PEERS, action="append")
    arguments = parser.parse_args()
    names = arguments.only or list(PEERS)
    began_s = time.monotonic()
    console = Console(width=160)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    rounds = {name: arguments.rounds or PEERS[name].rounds for name in names}
    with localstack() as server:
        for turn in range(max(rounds.values())):
            for name in names:
                if turn >= rounds[name]:
                    continue
                tasks = min(arguments.tasks, PEERS[name].most_tasks or arguments.tasks)
                sample = measure(name, server, turn, tasks)
                samples[name].append(sample)
                total = sum(sample.requests.values())
                console.print(
                    f"{PEERS[name].title}: {tasks} tasks, {sample.seconds:.3f} s, {total} requests"
                )
    console.print(as_table(samples))
    console.print(f"{time.monotonic() - began_s:.0f} s in all")
    if not arguments.only and not arguments.rounds and arguments.tasks == TASKS:
        write_on_storage(as_markdown(samples))
    return 0


HEADINGS = (
    "",
    "tasks",
    "rounds",
    "seconds per 1,000 tasks",
    "tasks/s",
    "requests per task",
    "requests",
    "CloudRay is faster by",
    "goal",
)


def rows(samples: Samples) -> list[Sequence[str]]:
    """One row per peer: time, rate, requests, how many times faster CloudRay is, and the goal."""
    medians = {
        name: statistics.median(one.seconds_per_1000 for one in many)
        for name, many in samples.items()
    }
    ours = medians.get("cloudray")
    found: list[Sequence[str]] = []
    for name, many in samples.items():
        peer, seconds = PEERS[name], medians[name]
        ratio = None if ours is None or name == "cloudray" else seconds / ours
        each = [one.seconds_per_1000 for one in many]
        spread = f" ({min(each):.3f} to {max(each):.3f})" if len(each) > 1 else ""
        requests = {
            method: statistics.median(one.requests[method] for one in many)
            for method in ("PUT", "GET", "LIST", "POST", "DELETE", "HEAD")
        }
        per_task = statistics.median(sum(one.requests.values()) / one.tasks for one in many)
        reached = "" if ratio is None or peer.goal is None else _reached(ratio, peer.goal)
        found.append(
            (
                peer.title,
                f"{many[0].tasks:,}",
                str(len(many)),
                f"{seconds:.3f}{spread}",
                f"{1000 / seconds:,.0f}",
                f"{per_task:.3f}",
                ", ".join(f"{n:g} {method}" for method, n in requests.items() if n),
                "" if ratio is None else f"{ratio:.3g} x",
                reached,
            )
        )
    return found


def _reached(ratio: float, goal: int) -> str:
    return f"{goal} x: {'hit' if ratio >= goal else 'miss'}"


def as_table(samples: Samples) -> Table:
    """The result for a terminal."""
    table = Table(*HEADINGS)
    for row in rows(samples):
        table.add_row(*row)
    return table


def as_markdown(samples: Samples) -> str:
    """The part of the document."""
    lines: list[Sequence[str]] = [
        HEADINGS,
        ("---", *["--:"] * 5, "---", "--:", "---"),
        *rows(samples),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"""{ON_STORAGE}

Written by `make bench-s3` on {date} ({cpu_model()}, {os.cpu_count()} cores); do not edit.

Tasks that do nothing, two slots, medians of rounds by turns on one LocalStack 4.14.0 (no
container), every peer warm. Requests are counted by a relay in front of it, between the first call
and the last result, and the figures are medians of each kind.

- The plain worker is benchmarks/storage/plain.py: two processes of 8 threads, one object per task
  and one per result.
- Lithops runs one `FunctionExecutor` with its localhost backend, `worker_processes: 2`, and its
  minio storage; `map` over all items. With `version: 1` of that backend one pool of processes runs
  all of them: that is its fastest way here (neither more processes nor looking more often than
  every 2 s made it faster), and the goal counts against it. As it comes, with `version: 2`, it
  starts a process for each task, so fewer are measured, and their time is scaled to 1,000.

{table}
"""


if __name__ == "__main__":
    sys.exit(main())
