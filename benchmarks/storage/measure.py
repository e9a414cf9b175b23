"""One peer, measured in a process of its own: `python -m benchmarks.storage.measure PEER TASKS`.

Prints "ready" when it is warm, waits for a line, runs the tasks, and prints "took" and the seconds.
Lithops prints empty lines of its own in between.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

from benchmarks.storage.task import nothing

#: How many tasks run before anything is measured.
WARM = 20
SLOTS = 2

Call = Callable[[list[int]], list[Any]]


@contextmanager
def cloudray_on_s3() -> Iterator[Call]:
    """CloudRay with one agent of as many CPUs as there are."""
    import cloudray as ray

    address = os.environ["BENCHMARK_ADDRESS"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "cloudray", "worker", address, "--num-cpus", str(SLOTS)],
        stdout=subprocess.DEVNULL,
    )
    try:
        ray.init(address, log_to_driver=False)
        task = ray.remote(nothing)
        yield lambda numbers: ray.get([task.remote(number) for number in numbers])
        ray.shutdown()
    finally:
        agent.terminate()
        agent.wait()


@contextmanager
def lithops_on_s3(version: int) -> Iterator[Call]:
    """Lithops with its processes on this machine, and everything else in S3.

    `version` is that of its localhost backend: 1 runs all calls of a `map` in one pool of
    processes, 2, the default, starts a process for each.
    """
    lithops: Any = import_module("lithops")  # which only its own environment has
    storage = {
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
        "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "storage_bucket": os.environ["BENCHMARK_BUCKET"],
    }
    config = {
        "lithops": {"backend": "localhost", "storage": "minio", "log_level": "WARNING"},
        "localhost": {
            "runtime": sys.executable,
            "worker_processes": SLOTS,
            "version": version,
        },
        "minio": storage,
    }
    with lithops.FunctionExecutor(config=config) as executor:

        def call(numbers: list[int]) -> list[Any]:
            futures = executor.map(nothing, numbers)
            results: list[Any] = executor.get_result(futures)
            return results

        yield call


@contextmanager
def plain_on_s3() -> Iterator[Call]:
    """boto3 and one object per task."""
    from benchmarks.storage import plain

    folder = f"plain-{os.getpid()}"
    command = [sys.executable, "-m", "benchmarks.storage.plain", "work", folder]
    workers = [subprocess.Popen([*command, str(share), str(SLOTS)]) for share in range(SLOTS)]
    turns = count()
    try:
        yield lambda numbers: plain.call(folder, next(turns), nothing, numbers)
    finally:
        plain.client().put_object(Bucket=plain.BUCKET, Key=f"{folder}/stop", Body=b"")
        for worker in workers:
            worker.wait()


PEERS: dict[str, Callable[[], AbstractContextManager[Call]]] = {
    "cloudray": cloudray_on_s3,
    "plain": plain_on_s3,
    "lithops": partial(lithops_on_s3, 1),
    "lithops-default": partial(lithops_on_s3, 2),
}


def main() -> None:
    """Measure one peer."""
    peer, tasks = sys.argv[1], int(sys.argv[2])
    with PEERS[peer]() as call:
        call(list(range(WARM)))
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        results = call(list(range(tasks)))
        took_s = time.perf_counter() - began
        if results != list(range(tasks)):
            raise SystemExit(f"{peer} returned something else than was asked for")
        print("took", took_s, flush=True)


if __name__ == "__main__":
    main()
