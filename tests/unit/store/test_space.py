from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cloudray.store.space import (
    LARGE_RECORDS,
    NEW_WORK,
    Filesystem,
    default_quota_bytes,
    kept_for_work,
    kept_in_memory,
    kept_on_disk,
)

MB = 1 << 20
GB = 1 << 30


def filesystem(size_bytes: int) -> Filesystem:
    made = Filesystem.__new__(Filesystem)
    made.size_bytes = made.free_bytes = size_bytes
    return made


def test_a_filesystem_says_its_size_and_what_is_free(small: Path) -> None:
    (small / "file").write_bytes(bytes(MB))
    found = Filesystem(str(small))
    assert (found.size_bytes, found.free_bytes) == (8 * MB, 7 * MB)


def test_one_without_limit_is_never_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = os.statvfs_result([4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255])
    monkeypatch.setattr(os, "statvfs", lambda _: unlimited)
    found = Filesystem(str(tmp_path))
    assert found.free_bytes == sys.maxsize
    assert kept_in_memory(found) == 0


@pytest.mark.parametrize(
    ("size_bytes", "kept"),
    [(8 * MB, 2 * MB), (64 * MB, 16 * MB), (GB, 64 * MB), (100 * GB, 5 * GB)],
)
def test_values_leave_more_of_a_small_memory_to_the_rest(size_bytes: int, kept: int) -> None:
    assert kept_in_memory(filesystem(size_bytes)) == kept


@pytest.mark.parametrize("size_bytes", [8 * MB, 64 * MB, GB, 100 * GB])
def test_values_stop_first_then_new_work_then_large_records(size_bytes: int) -> None:
    place = filesystem(size_bytes)
    work, records = kept_for_work(place, NEW_WORK), kept_for_work(place, LARGE_RECORDS)
    assert kept_in_memory(place) > work >= records > 0


@pytest.mark.parametrize(("size_bytes", "kept"), [(10 * GB, GB // 2), (1000 * GB, GB)])
def test_a_little_of_a_disk_is_left_to_others(size_bytes: int, kept: int) -> None:
    assert kept_on_disk(filesystem(size_bytes)) == kept


def test_the_default_quota_is_a_share_of_memory(tmp_path: Path) -> None:
    assert default_quota_bytes(tmp_path, 1000) == 300


def test_the_default_quota_is_no_more_than_there_is(small: Path) -> None:
    assert default_quota_bytes(small, 1 << 40) == 6 * MB
