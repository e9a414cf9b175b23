"""The plain way: boto3, one object per task, workers that list, run and answer.

python -m benchmarks.storage.plain work FOLDER SHARE SHARES
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3

BUCKET = os.environ.get("BENCHMARK_BUCKET", "cloudray")
THREADS = 8
_LOOK_S = 0.05


def client() -> Any:
    """A client for the S3 that the environment names."""
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=2 * THREADS))


def keys(s3: Any, prefix: str) -> Iterator[str]:
    """All keys under a prefix."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for line in page.get("Contents", ()):
            yield line["Key"]


def work(folder: str, share: int, shares: int) -> None:
    """Run tasks until somebody puts `stop`: every `shares`-th is ours."""
    s3 = client()

    def run(key: str) -> None:
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        function, argument = pickle.loads(body)
        result = pickle.dumps(function(argument))
        s3.put_object(Bucket=BUCKET, Key=key.replace("/in/", "/out/"), Body=result)
        s3.delete_object(Bucket=BUCKET, Key=key)

    with ThreadPoolExecutor(THREADS) as threads:
        while not list(keys(s3, f"{folder}/stop")):
            found = [key for key in keys(s3, f"{folder}/in/") if int(key[-6:]) % shares == share]
            list(threads.map(run, found))
            if not found:
                time.sleep(_LOOK_S)


def call(
    folder: str, turn: int, function: Callable[[Any], Any], arguments: Iterable[Any]
) -> list[Any]:
    """Run the function on every argument by the workers, and return what it returned."""
    s3 = client()
    tasks = {f"{turn}-{number:06d}": argument for number, argument in enumerate(arguments)}

    def put(item: tuple[str, Any]) -> None:
        body = pickle.dumps((function, item[1]))
        s3.put_object(Bucket=BUCKET, Key=f"{folder}/in/{item[0]}", Body=body)

    def get(name: str) -> Any:
        body = s3.get_object(Bucket=BUCKET, Key=f"{folder}/out/{name}")["Body"].read()
        return pickle.loads(body)

    results: dict[str, Any] = {}
    with ThreadPoolExecutor(2 * THREADS) as threads:
        list(threads.map(put, tasks.items()))
        while len(results) < len(tasks):
            done = [key.rpartition("/")[2] for key in keys(s3, f"{folder}/out/{turn}-")]
            ready = [name for name in done if name not in results]
            results |= dict(zip(ready, threads.map(get, ready), strict=True))
            if not ready:
                time.sleep(_LOOK_S)
    return [results[name] for name in tasks]


if __name__ == "__main__":
    work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
