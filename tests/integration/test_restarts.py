"""Clusters that come and go in one process leave nothing behind in it."""

from __future__ import annotations

import json
import operator
from collections import Counter
from functools import reduce
from typing import Any

import pytest

from tests.integration.drivers import run_driver

ROUNDS = 50
#: Rounds in which modules are loaded and pools and caches grow to what they stay at.
WARM = 20
#: What the rounds after them may add to the memory of the driver, which grows by a whole block of
#: the allocator now and then. If each kept one of the values that it makes, it would be 30 MB.
SLACK_BYTES = 4 << 20

PROGRAM = f"""
    import gc, json, os, threading
    import psutil
    import cloudray as ray
    from cloudray import platform

    @ray.remote(num_returns=2)
    def work(size, ref):
        return bytes(size), ref

    @ray.remote(max_retries=0)
    def fail():
        raise ValueError("out of tea")

    me = psutil.Process()

    def folders():
        prefix = f"cloudray-{{os.getuid()}}-{{os.getpid()}}-"
        places = {{platform.memory_folder(), platform.spill_folder()}}
        return sum(1 for place in places for name in os.listdir(place) if prefix in name)

    def once():
        ray.init(num_cpus=1, log_to_driver=False)
        refs = [work.remote(1_000_000, [ray.put(bytes(1_000_000))]) for _ in range(3)]
        small, inner = refs[0]
        assert len(small.future().result()) == len(ray.get(ray.get(inner)[0])) == 1_000_000
        ray.wait([small for small, _ in refs], num_returns=3)
        try:
            ray.get(fail.remote())
        except ValueError:
            pass
        unfinished = work.remote(1, 1)
        ray.shutdown()

    found = []
    for _ in range({ROUNDS}):
        once()
        gc.collect()
        found.append(dict(
            descriptors=me.num_fds(),
            threads=sorted(thread.name for thread in threading.enumerate()),
            native_threads=me.num_threads(),
            processes=len(me.children(recursive=True)),
            folders=folders(),
            mappings=sum("cloudray" in part.path for part in me.memory_maps()),
            memory=me.memory_full_info().uss,
            objects=sorted(
                type(one).__qualname__
                for one in gc.get_objects()
                if type(one).__module__.startswith("cloudray")
            ),
        ))
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a process has after each of its clusters has gone."""
    printed = run_driver(PROGRAM, tmp_path_factory.mktemp("restarts"), limit_s=110).out
    found: list[dict[str, Any]] = json.loads(printed)
    assert len(found) == ROUNDS
    return found


def test_no_process_and_no_folder_is_left(rounds: list[dict[str, Any]]) -> None:
    assert [(one["processes"], one["folders"]) for one in rounds] == [(0, 0)] * ROUNDS


def test_no_thread_is_left(rounds: list[dict[str, Any]]) -> None:
    assert [one["threads"] for one in rounds] == [["MainThread"]] * ROUNDS
    assert rounds[-1]["native_threads"] == rounds[0]["native_threads"]


def test_no_descriptor_is_left(rounds: list[dict[str, Any]]) -> None:
    assert {one["descriptors"] for one in rounds} == {rounds[0]["descriptors"]}


def test_no_value_stays_mapped(rounds: list[dict[str, Any]]) -> None:
    assert {one["mappings"] for one in rounds} == {0}


def test_no_object_of_the_package_is_left(rounds: list[dict[str, Any]]) -> None:
    grown = lasting(rounds[-10:]) - lasting(rounds[WARM : WARM + 10])
    # One that each round left would be there twenty times more.
    assert {name: count for name, count in grown.items() if count >= 10} == {}


def lasting(rounds: list[dict[str, Any]]) -> Counter[str]:
    """The objects that are there after every one of these rounds.

    Whatever was shown last, say, is kept until something else is shown.
    """
    return reduce(operator.and_, (Counter(one["objects"]) for one in rounds))


def test_no_byte_is_left(rounds: list[dict[str, Any]]) -> None:
    early = max(one["memory"] for one in rounds[WARM : WARM + 10])
    late = max(one["memory"] for one in rounds[-10:])
    assert late - early <= SLACK_BYTES
