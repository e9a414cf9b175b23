"""Where large values lie, and what becomes of their bytes."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cloudray as ray
from cloudray import context
from cloudray.exceptions import ObjectStoreFullError
from cloudray.store import Room
from tests.integration.clusters import Embedded, open_descriptors

Own = Callable[..., Embedded]
MB = 1 << 20


def numbers(seed: int, size_bytes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, size_bytes, dtype=np.uint8)


def room() -> Room:
    found = context.client().store.room  # type: ignore[attr-defined]
    assert isinstance(found, Room)
    return found


def objects_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "objects" in path.parts]


@ray.remote
def make(seed: int, size_bytes: int) -> np.ndarray[Any, Any]:
    return numbers(seed, size_bytes)


@ray.remote
def is_right(value: np.ndarray[Any, Any], seed: int, size_bytes: int) -> bool:
    return np.array_equal(value, numbers(seed, size_bytes))


@ray.remote
def put_inside(seed: int, size_bytes: int) -> list[Any]:
    return [ray.put(numbers(seed, size_bytes))]


def test_values_go_to_disk_when_memory_has_no_room(own_cluster: Own, tmp_path: Path) -> None:
    own_cluster(num_cpus=1, object_store_memory=4 * MB, object_spilling_directory=tmp_path)
    refs = [ray.put(numbers(0, 3 * MB)), ray.put(numbers(1, 3 * MB)), make.remote(2, 3 * MB)]
    refs += ray.get(put_inside.remote(3, 3 * MB))
    for seed, ref in enumerate(refs):
        assert np.array_equal(ray.get(ref), numbers(seed, 3 * MB))
        assert ray.get(is_right.remote(ref, seed, 3 * MB))
    assert len(objects_in(tmp_path)) == 3


def test_a_value_that_fits_nowhere_is_an_error_that_says_what_to_do(
    own_cluster: Own, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cloudray.platform.spill_folder", lambda: tmp_path / "missing")
    own_cluster(num_cpus=1, object_store_memory=4 * MB)
    with pytest.raises(ObjectStoreFullError, match=r"for a value of 5\.2 MB.*del ref"):
        _ = ray.put(bytes(5 * MB))
    with pytest.raises(ObjectStoreFullError, match=r"no room for the result of make \(5\.2 MB\)"):
        ray.get(make.remote(0, 5 * MB))
    # Everything else goes on.
    assert np.array_equal(ray.get(make.remote(0, 3 * MB)), numbers(0, 3 * MB))


def test_a_value_stays_as_it_is_however_much_is_stored_after_its_refs_are_gone(
    own_cluster: Own,
) -> None:
    own_cluster(num_cpus=1, object_store_memory=64 * MB)
    ref = ray.put(numbers(1, 4 * MB))
    value = ray.get(ref)
    del ref
    for seed in range(2, 30):
        ray.get(ray.put(numbers(seed, 4 * MB)))
    assert np.array_equal(value, numbers(1, 4 * MB))


def test_the_pages_of_freed_values_are_used_again(own_cluster: Own) -> None:
    own_cluster(num_cpus=1, object_store_memory=64 * MB)
    inodes = set()
    for seed in range(10):
        ref = ray.put(numbers(seed, 4 * MB))
        (path,) = objects_in(Path(room().spec.root or ""))
        inodes.add(path.stat().st_ino)
        assert np.array_equal(ray.get(ref), numbers(seed, 4 * MB))
        del ref
    assert len(inodes) < 10


def test_the_account_is_exact_after_all_kinds_of_values(own_cluster: Own) -> None:
    own_cluster(num_cpus=2, object_store_memory=32 * MB)
    rng = random.Random(1)
    kept: list[Any] = []
    for seed in range(40):
        size_bytes = rng.choice([200_000, MB, 3 * MB])
        if rng.random() < 0.5:
            kept.append(ray.put(numbers(seed, size_bytes)))
        else:
            kept.append(make.remote(seed, size_bytes))
        if len(kept) > 4:
            del kept[rng.randrange(len(kept))]
    ray.wait(kept, num_returns=len(kept))
    # Under its lock, for some values are only being freed.
    with room()._account as account:
        assert (account.used, account.spare) == room()._counts()


def test_thousands_of_values_hold_no_descriptors(own_cluster: Own) -> None:
    own_cluster(num_cpus=1)
    ref = ray.put(np.zeros(300_000, dtype=np.uint8))
    before = open_descriptors()
    values = [ray.get(ref) for _ in range(2000)]
    assert open_descriptors() <= before + 5
    assert sum(int(value[-1]) for value in values) == 0


def test_tasks_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    script = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
import cloudray as ray
ray.init(num_cpus=1)
@ray.remote
def limit():
    import resource
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(ray.get(limit.remote()))
"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert int(done.stdout) == min(hard, 65_536)


def test_a_quota_is_what_was_asked_for(own_cluster: Own) -> None:
    own_cluster(num_cpus=1, object_store_memory="5 MB")
    assert room().spec.memory_bytes == 5_000_000
