from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cloudray import platform
from cloudray.driver.storage import Storage
from cloudray.store import open_store


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk with space"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def places(memory: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is made anywhere else, and nothing is left."""
    monkeypatch.setattr(platform, "memory_folder", lambda: memory)
    monkeypatch.setattr(platform, "spill_folder", lambda: disk)
    yield
    assert [*memory.iterdir(), *disk.iterdir()] == []


def query_of(storage: Storage) -> dict[str, list[str]]:
    return parse_qs(urlsplit(storage.address).query)


def test_it_is_a_folder_in_memory_and_one_on_disk(memory: Path, disk: Path) -> None:
    storage = Storage(None, None)
    assert [Path(folder).parent for folder in storage.folders] == [memory, disk]
    assert str(storage.folder) == storage.folders[0]
    storage.remove()


def test_whoever_opens_its_address_finds_both(disk: Path) -> None:
    storage = Storage(1000, None)
    store = open_store(storage.address)
    store.put("t7/jobs/j/objects/a", bytes(2000))
    path = store.path("t7/jobs/j/objects/a")
    assert path is not None
    assert disk in path.parents
    store.put("queue/a", bytes(2000))
    path = store.path("queue/a")
    assert path is not None
    assert storage.folder in path.parents
    storage.remove()


def test_memory_for_values_is_a_share_of_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "memory_bytes", lambda: 1_000_000)
    storage = Storage(None, None)
    assert query_of(storage)["memory"] == ["300000"]
    storage.remove()


def test_memory_for_values_may_be_said() -> None:
    storage = Storage(123, None)
    assert query_of(storage)["memory"] == ["123"]
    storage.remove()


def test_a_directory_for_what_goes_to_disk_may_be_named(tmp_path: Path) -> None:
    named = tmp_path / "new" / "directory"
    storage = Storage(None, str(named))
    assert Path(storage.folders[1]).parent == named
    storage.remove()
    # What the user named stays, as an empty directory.
    assert list(named.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"object_spilling_directory='.*' cannot be used: .*\. Name"
    ):
        Storage(None, str(tmp_path / "file" / "directory"))


def test_a_directory_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != str(tmp_path) and access(path, mode)
    )
    with pytest.raises(ValueError, match="this user may not write there"):
        Storage(None, str(tmp_path))


def test_without_a_disk_everything_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "spill_folder", lambda: tmp_path / "missing")
    storage = Storage(None, None)
    assert "spill" not in query_of(storage)
    assert len(storage.folders) == len(storage.locks) == 1
    storage.remove()


def test_both_folders_are_locked_while_somebody_uses_them(memory: Path, disk: Path) -> None:
    storage = Storage(None, None)
    other = Storage(None, None)
    assert len(list(memory.iterdir())) == len(list(disk.iterdir())) == 2
    # As when all processes of a cluster were killed.
    storage.forget()
    Storage(None, None).remove()
    assert [str(path) for path in (*memory.iterdir(), *disk.iterdir())] == list(other.folders)
    other.remove()


def test_removing_it_twice_is_no_error() -> None:
    storage = Storage(None, None)
    storage.remove()
    storage.remove()
    storage.forget()
