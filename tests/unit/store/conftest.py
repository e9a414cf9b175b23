from __future__ import annotations

import os
from pathlib import Path

import pytest

SMALL_BYTES = 8 << 20


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a filesystem that says that it has 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    statvfs = os.statvfs

    def small_there(path: str) -> os.statvfs_result:
        found = list(statvfs(path))
        if Path(path).resolve().is_relative_to(folder):
            used = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
            # Sizes of blocks and fragments, then blocks in all, free, and free for all users.
            found[:5] = [4096, 4096, SMALL_BYTES // 4096, *[(SMALL_BYTES - used) // 4096] * 2]
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", small_there)
    return folder
