"""Measure CloudRay beside Ray, alternating, and print one table.

    make bench
    make bench ARGS="--quick --only tasks_many"

Each measurement is a process of its own; the peers take turns (A B A B ...), and the median
counts. A complete run also writes its part of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.document import DOCUMENT, write_local
from benchmarks.measure import MEASUREMENTS, PEERS
from benchmarks.processes import MARK, caused_by
from benchmarks.report import Samples, as_markdown, as_table, compare

ROOT = Path(__file__).resolve().parents[1]
PYTHON = {
    "cloudray": Path(sys.executable),
    "ray": ROOT / ".bench" / "ray" / "bin" / "python",
    "pool": Path(sys.executable),
}
#: A measurement that takes longer has failed.
LIMIT_S = 300
#: How long a peer may take to end its processes after its program ended.
LINGER_S = 30


class MeasurementError(Exception):
    """A measurement did not come to its end: the message says which and why."""


def measure(peer: str, what: str, *, quick: bool) -> dict[str, float]:
    """Run one measurement in a fresh process, and wait until all its processes are gone."""
    command = [str(PYTHON[peer]), "-m", "benchmarks.measure", "--peer", peer, "--what", what]
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [*command, *(["--quick"] if quick else [])],
        cwd=ROOT,
        env={**os.environ, MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        end_all(mark, process.pid)
        process.communicate()
        message = f"{peer} {what} took more than {LIMIT_S} s"
        raise MeasurementError(message) from error
    lingering = wait_until_gone(mark, process.pid)
    if process.returncode != 0 or not output.strip():
        last = (errors.strip().splitlines() or ["no output"])[-1]
        message = f"{peer} {what} ended with status {process.returncode}: {last}"
        raise MeasurementError(message)
    if lingering:
        message = f"{peer} {what} left {lingering} processes running for {LINGER_S} s"
        raise MeasurementError(message)
    measured: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return measured


def wait_until_gone(mark: str, root: int) -> int:
    """Wait until a program's processes have ended; ends and counts those that stay."""
    deadline = time.monotonic() + LINGER_S
    while time.monotonic() < deadline:
        if not caused_by(root, mark):
            return 0
        time.sleep(0.1)
    return end_all(mark, root)


def end_all(mark: str, root: int) -> int:
    """Kill a program and whatever it started; returns how many processes that were."""
    pids = caused_by(root, mark) | {root}
    ended = 0
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended by itself meanwhile.
            continue
        ended += 1
    return ended


def peers_of(what: str, peers: Sequence[str]) -> list[str]:
    """Who takes part in a measurement."""
    if what == "requests":
        return [peer for peer in peers if peer == "cloudray"]
    return [peer for peer in peers if peer != "pool" or what == "primes"]


def run(
    whats: Sequence[str], peers: Sequence[str], *, repeat: int, quick: bool
) -> tuple[Samples, list[str]]:
    """Measure everything; returns samples by (peer, figure), and what failed."""
    samples: Samples = defaultdict(list)
    failures = []
    console = Console(stderr=True)
    for what in whats:
        taking_part = peers_of(what, peers)
        # The differences between the pool and its rivals are the smallest of all.
        rounds = max(repeat, 5) if what == "primes" and not quick else repeat
        for number in range(1, rounds + 1):
            for peer in list(taking_part):
                console.print(f"{what} {number}/{rounds} {peer}", style="dim", highlight=False)
                try:
                    measured = measure(peer, what, quick=quick)
                except MeasurementError as error:
                    failures.append(str(error))
                    taking_part.remove(peer)
                    continue
                for figure, value in measured.items():
                    samples[peer, figure].append(value)
    return samples, failures


def main() -> None:
    """Measure and report; the exit status is 1 when a measurement failed."""
    arguments = parse_arguments()
    whats = arguments.only or list(MEASUREMENTS)
    started = time.gmtime()
    samples, failures = run(whats, arguments.peers, repeat=arguments.repeat, quick=arguments.quick)
    lines = compare(samples)
    # No line is folded, whatever the terminal's width.
    console = Console(width=140)
    console.print(as_table(lines, quick=arguments.quick))
    for failure in failures:
        console.print(f"failed: {failure}", style="red", highlight=False)
    if arguments.output:
        text = as_markdown(lines, failures, started=started, ray_python=PYTHON["ray"])
        write_local(text, arguments.output)
        console.print(f"written to {arguments.output}", highlight=False)
    sys.exit(1 if failures else 0)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; only a complete run writes the document unasked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="may be repeated")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeat", type=int, default=3, help="at least (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once")
    parser.add_argument("--output", type=Path, help="write the document here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeat = 1
    complete = not arguments.quick and not arguments.only and set(arguments.peers) == set(PEERS)
    if complete and arguments.output is None:
        arguments.output = DOCUMENT
    return arguments


if __name__ == "__main__":
    main()
