"""Measure one thing of one peer, in this process, and print it as a line of JSON.

    .bench/ray/bin/python -m benchmarks.measure --peer ray --what tasks_sync

All peers run the very same lines: `ray` below is whichever was asked for. The peers live in
environments of their own, so this file needs nothing but the standard library and its peer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import (
    MARK,
    caused_by,
    own_bytes_of,
    resident_bytes,
    shared_memory_bytes,
)

PEERS = ("cloudray", "ray", "pool")
#: So many rounds of `put` are looked at for a median.
FIRST_ROUNDS = 12


def no_op(*_: object) -> None:
    """Do nothing."""


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


def start_warm(peer: str, **options: Any) -> tuple[Any, Any]:
    """Start the peer and run tasks until every CPU has an executor; returns a remote no-op too."""
    ray = importlib.import_module(peer)
    ray.init(**options)
    remote = ray.remote(no_op)
    for _ in range(5):
        ray.get([remote.remote() for _ in range(100)])
    return ray, remote


def elapsed_s(work: Callable[[], object]) -> float:
    """How long `work` takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_s(work: Callable[[], object], rounds: int) -> float:
    """How long `work` takes, in seconds: the median of so many rounds."""
    return statistics.median(elapsed_s(work) for _ in range(rounds))


def startup(peer: str, *, quick: bool) -> dict[str, float]:
    """From nothing to the first result."""
    del quick
    begun = time.perf_counter()
    ray = importlib.import_module(peer)
    imported = time.perf_counter()
    ray.init()
    ready = time.perf_counter()
    ray.get(ray.remote(no_op).remote())
    done = time.perf_counter()
    return {
        "import": imported - begun,
        "init": ready - imported,
        "first_result": done - ready,
        "startup": done - begun,
    }


def tasks_sync(peer: str, *, quick: bool) -> dict[str, float]:
    """One task at a time: submit, get, submit, get."""
    ray, remote = start_warm(peer)
    count = 100 if quick else 1_000

    def work() -> None:
        for _ in range(count):
            ray.get(remote.remote())

    return {"tasks_sync": count / elapsed_s(work)}


def tasks_many(peer: str, *, quick: bool) -> dict[str, float]:
    """Many tasks at once."""
    ray, remote = start_warm(peer)
    count = 1_000 if quick else 10_000

    def work() -> None:
        ray.get([remote.remote() for _ in range(count)])

    return {"tasks_many": count / elapsed_s(work)}


def tasks_1kb(peer: str, *, quick: bool) -> dict[str, float]:
    """Many tasks at once, each with a kilobyte of its own as argument."""
    ray, remote = start_warm(peer)
    count = 1_000 if quick else 10_000
    arguments = [os.urandom(1_000) for _ in range(count)]

    def work() -> None:
        ray.get([remote.remote(argument) for argument in arguments])

    return {"tasks_1kb": count / elapsed_s(work)}


def wait(peer: str, *, quick: bool) -> dict[str, float]:
    """Take results one by one, as they come."""
    ray, remote = start_warm(peer)
    count = 100 if quick else 1_000

    def work() -> None:
        pending = [remote.remote() for _ in range(count)]
        while pending:
            _, pending = ray.wait(pending)

    return {"wait": count / elapsed_s(work)}


def fan_in(peer: str, *, quick: bool) -> dict[str, float]:
    """Many tasks, and one that takes all their results as its arguments."""
    ray, remote = start_warm(peer)
    count = 1_000 if quick else 10_000

    def work() -> None:
        ray.get(remote.remote(*[remote.remote() for _ in range(count)]))

    return {"fan_in": count / elapsed_s(work)}


def nested(peer: str, *, quick: bool) -> dict[str, float]:
    """Tasks that submit a hundred tasks each and wait for them."""
    ray, remote = start_warm(peer)
    outer_count, inner_count = (10 if quick else 100), 100

    def run_inner() -> int:
        return len(ray.get([remote.remote() for _ in range(inner_count)]))

    outer = ray.remote(run_inner)

    def work() -> None:
        counts = ray.get([outer.remote() for _ in range(outer_count)])
        if counts != [inner_count] * outer_count:
            message = f"nested tasks returned {counts}"
            raise RuntimeError(message)

    return {"nested": outer_count * inner_count / elapsed_s(work)}


def primes(peer: str, *, quick: bool) -> dict[str, float]:
    """Eight CPU-bound tasks; a pool has as many processes as there are CPUs."""
    limits = [100_000 if quick else 700_000] * 8
    if peer == "pool":
        with multiprocessing.Pool(os.cpu_count()) as pool:
            pool.map(no_op, range(100), chunksize=1)
            return {"primes": elapsed_s(lambda: pool.map(sum_primes, limits, chunksize=1))}
    ray, _ = start_warm(peer)
    remote = ray.remote(sum_primes)
    return {"primes": elapsed_s(lambda: ray.get([remote.remote(limit) for limit in limits]))}


def values(peer: str, *, quick: bool) -> dict[str, float]:
    """Put and get arrays of several sizes, again and again; medians.

    What was got is dropped before the next is: who drops the last view of a large mapping pays
    for taking it down, and that is no part of the next get.
    """
    import numpy as np

    ray, _ = start_warm(peer)
    measured: dict[str, float] = {}
    for name, size_bytes, rounds in (
        ("1kb", 1_000, 300),
        ("1mb", 1_000_000, 100),
        ("100mb", 10_000_000 if quick else 100_000_000, 48),
        ("1gb", 100_000_000 if quick else 1_000_000_000, 5),
    ):
        array = np.frombuffer(os.urandom(1_000) * (size_bytes // 1_000), dtype=np.uint8)
        puts, gets = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            ref = ray.put(array)
            puts.append(time.perf_counter() - started)
            del ref
        ref = ray.put(array)
        if not np.array_equal(ray.get(ref), array):
            message = "get returned something else than was put"
            raise RuntimeError(message)
        del array
        for _ in range(100):
            started = time.perf_counter()
            found = ray.get(ref)
            gets.append(time.perf_counter() - started)
            del found
        del ref
        # The first rounds, as a program has them that puts a gigabyte or so: a store that takes
        # new memory for every value gets round to what it has used after the others.
        measured[f"put_{name}"] = statistics.median(puts[:FIRST_ROUNDS])
        measured[f"put_{name}_warm"] = statistics.median(puts[-FIRST_ROUNDS:])
        measured[f"get_{name}"] = statistics.median(gets)
    for kind in ("", "_warm"):
        rate = (10e6 if quick else 100e6) / measured[f"put_100mb{kind}"] / 1e9
        measured[f"put_rate{kind}"] = rate
    measured["get_ratio"] = measured["get_1gb"] / measured["get_1mb"]
    return measured


def arguments(peer: str, *, quick: bool) -> dict[str, float]:
    """A task with an array of 100 MB as its argument on every slot: by ref, and by value."""
    import numpy as np

    ray, _ = start_warm(peer)
    slots = os.cpu_count() or 1
    array = np.ones(10_000_000 if quick else 100_000_000, dtype=np.uint8)
    remote = ray.remote(last_of)
    ref = ray.put(array)

    def pass_it(argument: object) -> None:
        found = ray.get([remote.remote(argument) for _ in range(slots)])
        if found != [1] * slots:
            message = f"the tasks returned {found}"
            raise RuntimeError(message)

    pass_it(ref)
    return {
        "argument_ref": median_s(lambda: pass_it(ref), 20),
        "argument_value": median_s(lambda: pass_it(array), 5),
    }


def last_of(array: Any) -> int:
    """The last element of an array."""
    return int(array[-1])


def results(peer: str, *, quick: bool) -> dict[str, float]:
    """Ten tasks that return an array of 50 MB each."""
    import numpy as np

    ray, _ = start_warm(peer)
    size_bytes = 5_000_000 if quick else 50_000_000

    def ones() -> Any:
        return np.ones(size_bytes, dtype=np.uint8)

    remote = ray.remote(ones)

    def work() -> None:
        found = ray.get([remote.remote() for _ in range(10)])
        if {(array.nbytes, int(array[-1])) for array in found} != {(size_bytes, 1)}:
            message = "the tasks returned something else than ones"
            raise RuntimeError(message)

    work()
    return {"results": median_s(work, 3)}


def memory_shared(peer: str, *, quick: bool) -> dict[str, float]:
    """Memory of everything, this process included, while four executors read 1 GB.

    Every page counts once: what processes have of their own, and the files in shared memory,
    whether they are mapped or not.
    """
    import numpy as np

    executors = 4
    files_before_bytes = shared_memory_bytes()
    ray, _ = start_warm(peer, num_cpus=executors)
    array = np.ones(100_000_000 if quick else 1_000_000_000, dtype=np.uint8)
    total = array.size
    ref = ray.put(array)
    del array
    with tempfile.TemporaryDirectory() as folder:
        remote = ray.remote(read_and_stay)
        refs = [remote.remote(ref, folder, str(number)) for number in range(executors)]
        while sum(1 for _ in Path(folder).iterdir()) < executors:
            if ray.wait(refs, timeout=0.05)[0]:
                message = "a task ended before all had begun"
                raise RuntimeError(message)
        pids = caused_by(os.getpid(), os.environ[MARK]) | {os.getpid()}
        own_bytes = sum(own_bytes_of(pid) for pid in pids)
        files_bytes = shared_memory_bytes() - files_before_bytes
        Path(folder, "go").touch()
        if ray.get(refs) != [total] * executors:
            message = "an executor read something else than was put"
            raise RuntimeError(message)
    return {"memory_shared": (own_bytes + files_bytes) / 1e9}


def read_and_stay(array: Any, folder: str, name: str) -> int:
    """Read all of an array, say so in a folder, and keep it until told to go."""
    total = int(array.sum())
    Path(folder, name).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return total


def memory(peer: str, *, quick: bool) -> dict[str, float]:
    """Memory of everything but this process, once every CPU has an executor."""
    del quick
    files_before_bytes = shared_memory_bytes()
    start_warm(peer)
    others = caused_by(os.getpid(), os.environ[MARK])
    return {
        "memory": sum(resident_bytes(pid) for pid in others) / 1e6,
        "memory_processes": len(others),
        "memory_files": (shared_memory_bytes() - files_before_bytes) / 1e6,
    }


def requests(peer: str, *, quick: bool) -> dict[str, float]:
    """Storage requests per task, when many tiny tasks are submitted at once."""
    counted = requests_per_task(1_000 if quick else 10_000) if peer == "cloudray" else None
    return {} if counted is None else {"requests": counted}


def requests_per_task(count: int) -> float | None:
    """Priced requests for each of `count` tiny tasks, by whomever they are made.

    The driver counts its own and its agents' since they started. None when the client that is
    current does not count.
    """
    ray, remote = start_warm("cloudray")
    count_requests = getattr(importlib.import_module("cloudray.context").client(), "requests", None)
    if count_requests is None:
        return None
    before = count_requests()
    ray.get([remote.remote() for _ in range(count)])
    priced: int = count_requests().subtract(before).priced_requests
    return priced / count


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "startup": startup,
    "tasks_sync": tasks_sync,
    "tasks_many": tasks_many,
    "tasks_1kb": tasks_1kb,
    "wait": wait,
    "fan_in": fan_in,
    "nested": nested,
    "primes": primes,
    "values": values,
    "arguments": arguments,
    "results": results,
    "memory": memory,
    "memory_shared": memory_shared,
    "requests": requests,
}


def main() -> None:
    """Measure, print, and leave nothing running."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--what", required=True, choices=MEASUREMENTS)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    arguments = parser.parse_args()
    if MARK not in os.environ:
        # A process's environment is what it was started with: start again, marked.
        os.environ[MARK] = str(os.getpid())
        os.execv(sys.executable, sys.orig_argv)
    measured = MEASUREMENTS[arguments.what](arguments.peer, quick=arguments.quick)
    if arguments.peer in sys.modules:
        sys.modules[arguments.peer].shutdown()
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
