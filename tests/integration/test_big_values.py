"""Large values and object storage: in parts, once per machine, and with little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
import psutil
import pytest

import cloudray as ray
from cloudray.exceptions import ObjectLostError
from cloudray.store import Kind, Put, Reliable, layout, open_store, seal
from cloudray.store.bodies import PART_BYTES
from cloudray.store.parts import read_in_parts
from tests.buckets import cluster_in_bucket, credentials
from tests.chaos.proxy import CALM, Fate, Proxy, Weather
from tests.servers import Server

PARTS = 6
#: What agent and executor may take beside the value: `BIG_VALUE_MB=2000` tries a larger one.
BESIDE_BYTES = 300_000_000
#: What a driver may take: some parts that travel.
DRIVER_BESIDE_BYTES = 120_000_000
SIZE_BYTES = int(os.environ.get("BIG_VALUE_MB", "200")) * 1_000_000


class Unlucky:
    """A network that is calm but for one request, which meets this fate."""

    def __init__(self, number: int, fate: Fate) -> None:
        self._left = number
        self._fate = fate

    def fate(self, rng: Random) -> Fate:
        del rng
        self._left -= 1
        return self._fate if self._left == 0 else Fate.PASSED

    def wait_s(self, rng: Random) -> float:
        return CALM.wait_s(rng)


def requests_of(server: Server, weather: Unlucky, *, reading: bool) -> int:
    """How many requests writing (or reading) a value of some parts takes."""
    body = seal(Kind.OBJECT, bytes(PARTS * PART_BYTES - 64))
    with credentials(), Proxy(server.port, seed=0) as proxy:
        door = proxy.open()
        store = Reliable(open_store(server.address("parts", port=door.port)))
        try:
            if reading:
                store.put("value", body)
                door.fates.clear()
            proxy.weather = cast("Weather", weather)
            if reading:
                assert read_in_parts(store, "value") == body
            else:
                store.perform(Put("value", body))
                assert store.get("value") == body
        finally:
            store.close()
        return door.fates.total()


@pytest.mark.parametrize(
    ("fate", "reading"),
    [(Fate.HALF_SENT, False), (Fate.UNANSWERED, False), (Fate.HALF_ANSWERED, True)],
)
def test_a_cut_connection_costs_one_part(localstack: Server, fate: Fate, reading: bool) -> None:
    undisturbed = requests_of(localstack, Unlucky(0, fate), reading=reading)
    # The fourth is one of the parts, and others travel beside it.
    assert requests_of(localstack, Unlucky(4, fate), reading=reading) == undisturbed + 1


@pytest.mark.parametrize("size_bytes", [1_000_000, PARTS * PART_BYTES])
def test_a_damaged_value_is_loaded_nowhere_even_without_a_key(
    localstack: Server, tmp_path: Path, size_bytes: int
) -> None:
    with cluster_in_bucket(
        tmp_path, "--num-cpus", "1", server=localstack, prefix=f"damaged-{size_bytes}"
    ) as address:
        ray.init(address)
        raw = open_store(address)
        try:
            ref = ray.put(np.ones(size_bytes // 8))
            ray.wait([ref])
            assert ray.get(length.remote(ref)) == size_bytes // 8
            other = ray.put(np.ones(size_bytes // 8))
            ray.wait([other])
            key = layout.put_object(other.id)
            body = bytearray(raw.get(key) or b"")
            body[-1000] ^= 1
            raw.put(key, bytes(body))
            for asked in (other, length.remote(other)):
                with pytest.raises(ObjectLostError, match=rf"{key} .*damaged.*delete it"):
                    ray.get(asked)
        finally:
            raw.close()
            ray.shutdown()


@ray.remote(num_cpus=0.1)
def length(array: np.ndarray) -> int:
    return len(array)


@ray.remote(num_cpus=0.1)
def make(size_bytes: int) -> tuple[int, np.ndarray]:
    return os.getpid(), np.ones(size_bytes // 8)


@ray.remote(num_cpus=0.1)
def use(made: tuple[int, np.ndarray]) -> tuple[int, int, float]:
    return os.getpid(), os.getppid(), float(made[1].sum())


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held at once, without what it mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


#: A driver in a process of its own; the last line that it prints is what it found out.
PRELUDE = """
import os, sys
from pathlib import Path
import numpy as np
import cloudray as ray
from tests.integration.test_big_values import peak_bytes
ray.init(sys.argv[1], log_to_driver=False)
before = peak_bytes(os.getpid())
"""
PUTS = """
made = np.ones(int(sys.argv[2]) // 8)
ref = ray.put(made)
@ray.remote(num_cpus=0.1)
def use(array): return float(array.sum())
assert ray.get(use.remote(ref)) == made.size
print(ref.hex(), peak_bytes(os.getpid()) - before)
"""
GETS = """
array = ray.get(ray.ref(sys.argv[3]))
assert array.sum() == int(sys.argv[2]) // 8
print("-", peak_bytes(os.getpid()) - before)
"""


def drive(program: str, *arguments: str) -> tuple[str, int]:
    """Run a driver; returns the two words of its last line."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    text, number = ended.stdout.splitlines()[-1].split()
    return text, int(number)


def test_drivers_that_put_and_get_a_large_value_hold_it_once(
    localstack: Server, tmp_path: Path
) -> None:
    with cluster_in_bucket(
        tmp_path, "--num-cpus", "1", server=localstack, prefix="drivers"
    ) as address:
        ref, putting = drive(PUTS, address, str(SIZE_BYTES))
        _, getting = drive(GETS, address, str(SIZE_BYTES), ref)
    assert max(putting, getting) <= SIZE_BYTES + DRIVER_BESIDE_BYTES, (putting, getting)


def test_a_large_value_takes_little_more_memory_than_itself(
    localstack: Server, tmp_path: Path
) -> None:
    with cluster_in_bucket(
        tmp_path, "--num-cpus", "1", server=localstack, prefix="large"
    ) as address:
        ray.init(address)
        try:
            made = make.remote(SIZE_BYTES)
            user, zygote, total = ray.get(use.remote(made))
            assert total == SIZE_BYTES // 8
            agent = psutil.Process(zygote).parent()
            assert agent is not None
            peaks = [peak_bytes(agent.pid), peak_bytes(user)]
            assert sum(peaks) <= SIZE_BYTES + BESIDE_BYTES, peaks
        finally:
            ray.shutdown()
