"""A folder that has not changed is not packed again; one that has, is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloudray.code import archives
from cloudray.code.archives import Archive
from cloudray.code.kept import Kept
from cloudray.code.packing import Packing

BYTES = 2_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is worth keeping and was not touched for long."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "data").write_bytes(os.urandom(BYTES))
    later_s = time.time() + 60
    monkeypatch.setattr("cloudray.code.kept.time.time", lambda: later_s)
    return folder


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[Archive]:
    """What was really packed."""
    made: list[Archive] = []
    pack = archives.pack

    def note(*args: object) -> Archive:
        made.append(pack(*args))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(archives, "pack", note)
    return made


def packing(tmp_path: Path, limit_bytes: int = 100_000_000) -> Packing:
    """As another process would have it."""
    return Packing(100_000_000, Kept(tmp_path / "kept", limit_bytes))


def test_what_is_the_same_is_packed_once(
    tmp_path: Path, folder: Path, packed: list[Archive]
) -> None:
    first = packing(tmp_path).folder(folder)
    assert packing(tmp_path).folder(folder) == first
    assert len(packed) == 1


def test_what_has_changed_is_packed_again(
    tmp_path: Path, folder: Path, packed: list[Archive]
) -> None:
    packing(tmp_path).folder(folder)
    path = folder / "data"
    status = path.stat()
    path.write_bytes(os.urandom(BYTES))
    # Of the same size, and as old as before.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    packing(tmp_path).folder(folder)
    assert packed[0].digest != packed[1].digest


def test_a_new_file_or_name_is_a_change(
    tmp_path: Path, folder: Path, packed: list[Archive]
) -> None:
    packing(tmp_path).folder(folder)
    (folder / "more").touch()
    packing(tmp_path).folder(folder)
    packing(tmp_path).folder(folder, inside="code")
    assert len({archive.digest for archive in packed}) == 3


def test_what_was_changed_just_now_is_not_kept(
    tmp_path: Path, folder: Path, packed: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = (folder / "data").stat().st_ctime
    monkeypatch.setattr("cloudray.code.kept.time.time", lambda: now_s)
    for _ in range(2):
        packing(tmp_path).folder(folder)
    assert len(packed) == 2


def test_what_was_damaged_is_packed_again(
    tmp_path: Path, folder: Path, packed: list[Archive]
) -> None:
    packing(tmp_path).folder(folder)
    (kept,) = (tmp_path / "kept").iterdir()
    body = bytearray(kept.read_bytes())
    body[-10] ^= 1
    kept.write_bytes(body)
    packing(tmp_path).folder(folder)
    assert packed[0] == packed[1]


def test_small_folders_are_not_worth_it(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("A = 1")
    packing(tmp_path).folder(folder)
    assert not (tmp_path / "kept").exists()


def test_the_least_recently_used_goes(tmp_path: Path, folder: Path, packed: list[Archive]) -> None:
    kept = packing(tmp_path, limit_bytes=5 * BYTES // 2)
    for age_s, name in enumerate(["first", "second", "third"]):
        kept.folder(folder, inside=name)
        for path in (tmp_path / "kept").iterdir():
            status = path.stat()
            if status.st_atime > 1e6:
                os.utime(path, (age_s, age_s))
    kept.folder(folder, inside="third")
    kept.folder(folder, inside="second")
    assert len(packed) == 3
    kept.folder(folder, inside="first")
    assert len(packed) == 4


def test_where_nothing_can_be_written_it_is_packed_all_the_same(
    tmp_path: Path, folder: Path, packed: list[Archive]
) -> None:
    (tmp_path / "kept").write_text("a file")
    for _ in range(2):
        packing(tmp_path).folder(folder)
    assert len(packed) == 2
