"""A cluster whose memory and disk are nearly always full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray import platform
from cloudray.exceptions import ObjectStoreFullError
from tests.integration.clusters import Embedded, start

#: How long anything may take that is to end.
PATIENCE_S = 60.0
ROUNDS = 20
KB, MB = 1 << 10, 1 << 20
#: Around the limits: what travels inside other records, what is recycled, what never fits.
SIZES = (100, 20 * KB, 90 * KB, 150 * KB, 600 * KB, 1 * MB, 2 * MB, 5 * MB, 40 * MB)


@ray.remote
def make(seed: int, size: int) -> bytes:
    return body(seed, size)


@ray.remote
def check(seed: int, size: int, value: bytes) -> bool:
    return value == body(seed, size)


@ray.remote
def put_inside(seed: int, size: int) -> bytes:
    ref = ray.put(body(seed, size))
    return bytes(ray.get(ref))


@ray.remote
def put_and_return(seed: int, size: int) -> list[Any]:
    return [ray.put(body(seed, size))]


@ray.remote
def submit_inside(seed: int, size: int) -> bytes:
    value: bytes = ray.get(make.remote(seed, size))
    return value


def body(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(min(size, KB)) * (size // min(size, KB))


class Places:
    """Memory and a disk for a cluster, both tiny; or memory alone."""

    def __init__(self, memory: Path, disk: Path, *, has_disk: bool) -> None:
        self.memory = memory
        self.disk = disk
        self.has_disk = has_disk

    def leftovers(self) -> list[str]:
        return [str(path) for place in (self.memory, self.disk) for path in place.iterdir()]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """Two filesystems of a few megabytes, else a folder of which only a quota is small."""
    # Not pytest's own folder: the paths of sockets are short.
    base = Path(tempfile.mkdtemp(prefix="full-"))
    memory, disk = base / "memory", base / "disk"
    mounted = []
    for place, size in ((memory, "16m"), (disk, "12m")):
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if os.getuid() == 0 and not subprocess.run(mount, check=False).returncode:
            mounted.append(place)
    monkeypatch.setattr(platform, "memory_folder", lambda: memory)
    monkeypatch.setattr(platform, "spill_folder", lambda: base / "missing")
    yield Places(memory, disk, has_disk=len(mounted) == 2)
    for place in mounted:
        # Lazily: also where a process of a test that failed is still in it.
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S607 - of the system
    shutil.rmtree(base)


@pytest.fixture
def cluster(places: Places) -> Iterator[Embedded]:
    cluster = start(
        num_cpus=2,
        object_store_memory=8 * MB,
        object_spilling_directory=places.disk if places.has_disk else None,
        log_to_driver=False,
    )
    yield cluster
    if ray.is_initialized():
        cluster.end()


def outcome(attempt: Callable[[], Any]) -> Any:
    """What an attempt returns, or None if there was no room."""
    try:
        return attempt()
    except ObjectStoreFullError:
        return None


class Rounds:
    """What has been stored and asked for, and what it must be."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        #: values that are kept: refs, and what their bodies are made from
        self.kept: list[tuple[Any, tuple[int, int]]] = []
        #: what is waited for, and what it must be
        self.asked: list[tuple[Any, Any]] = []
        self.right = 0
        self.refused = 0

    def run(self) -> None:
        rng = self.rng
        acts: list[Callable[[int, int], None]] = [
            self.put,
            self.put_in_a_task,
            self.call,
            self.pass_value,
            self.pass_ref,
        ]
        for _ in range(rng.randrange(2, 7)):
            made_from = rng.randrange(1 << 30), rng.choice(SIZES)
            rng.choice(acts)(*made_from)
        for ref, expected in self.asked:
            found = outcome(partial(ray.get, ref, timeout=PATIENCE_S))
            if found is None:
                self.refused += 1
            else:
                assert found == expected
                self.right += 1
        self.asked.clear()
        while len(self.kept) > 3 or (self.kept and rng.random() < 0.3):
            del self.kept[rng.randrange(len(self.kept))]

    def put(self, seed: int, size: int) -> None:
        self._keep(outcome(partial(ray.put, body(seed, size))), seed, size)

    def put_in_a_task(self, seed: int, size: int) -> None:
        refs = outcome(lambda: ray.get(put_and_return.remote(seed, size), timeout=PATIENCE_S))
        self._keep(None if refs is None else refs[0], seed, size)

    def call(self, seed: int, size: int) -> None:
        task = self.rng.choice([make, put_inside, submit_inside])
        self._ask(outcome(partial(task.remote, seed, size)), body(seed, size))

    def pass_value(self, seed: int, size: int) -> None:
        value = body(seed, size)
        self._ask(outcome(partial(check.remote, seed, size, value)), expected=True)

    def pass_ref(self, *_: int) -> None:
        if self.kept:
            ref, made_from = self.rng.choice(self.kept)
            self._ask(outcome(partial(check.remote, *made_from, ref)), expected=True)

    def _ask(self, ref: Any, expected: Any) -> None:
        if ref is None:
            self.refused += 1
        else:
            self.asked.append((ref, expected))

    def _keep(self, ref: Any, seed: int, size: int) -> None:
        if ref is None:
            self.refused += 1
        else:
            self.kept.append((ref, (seed, size)))

    def check_kept(self) -> None:
        for ref, made_from in self.kept:
            assert ray.get(ref, timeout=PATIENCE_S) == body(*made_from)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
def test_all_ends_in_right_results_or_in_the_error_that_says_so(
    cluster: Embedded, places: Places, seed: int
) -> None:
    rounds = Rounds(seed)
    for _ in range(ROUNDS):
        rounds.run()
        rounds.check_kept()
    # Some of both: else nothing was full, or nothing worked.
    assert rounds.right > 0
    assert rounds.refused > 0
    agent = cluster.agent
    assert [node["pid"] for node in ray.nodes()] == [agent]
    rounds.kept.clear()
    cluster.end()
    assert places.leftovers() == []


@pytest.mark.timeout(400)
def test_results_that_fill_memory_are_replaced_by_errors_and_nothing_hangs(
    cluster: Embedded, places: Places
) -> None:
    """Small results lie in the journals, which cannot go to disk."""
    size = 80 * KB
    refs = [outcome(partial(make.remote, seed, size)) for seed in range(400)]
    ended = [
        None if ref is None else outcome(partial(ray.get, ref, timeout=PATIENCE_S)) for ref in refs
    ]
    assert all(value is None or value == body(seed, size) for seed, value in enumerate(ended))
    assert any(value is not None for value in ended)
    # Nothing that was there is lost.
    for seed, (ref, value) in enumerate(zip(refs, ended, strict=True)):
        if value is not None:
            assert ray.get(ref, timeout=PATIENCE_S) == body(seed, size)
    cluster.end()
    assert places.leftovers() == []


@ray.remote
def wait_for(gate: Path) -> bool:
    while not gate.exists():
        time.sleep(0.01)
    return True


@pytest.mark.timeout(400)
def test_calls_for_which_there_is_no_room_are_refused_and_others_go_on(
    cluster: Embedded, places: Places, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    held = [wait_for.remote(gate) for _ in range(2)]
    size = 80 * KB
    calls = []
    refused = 0
    for seed in range(400):
        ref = outcome(partial(check.remote, seed, size, body(seed, size)))
        if ref is None:
            refused += 1
        else:
            calls.append(ref)
    gate.touch()
    assert ray.get(held, timeout=PATIENCE_S) == [True, True]
    # What was taken is done, unless there was no room for it to be stored later.
    ended = [outcome(partial(ray.get, ref, timeout=PATIENCE_S)) for ref in calls]
    assert set(ended) <= {True, None}
    assert True in ended
    # And there is room again.
    assert ray.get(check.remote(7, size, body(7, size)), timeout=PATIENCE_S)
    cluster.end()
    assert places.leftovers() == []
