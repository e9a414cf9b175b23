from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudray.store import DirectoryStore, MemoryStore, walk
from cloudray.store.walk import walk as walk_files

# Few letters, so that keys share beginnings; '!', '-' and '.' sort before '/', '0' and 'a' after.
NAMES = st.text("!-.0aé", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
KEYS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def without_folders(keys: set[str]) -> set[str]:
    """Leave out keys that are another's folder, as no cluster has them."""
    return {key for key in keys if not any(other.startswith(key + "/") for other in keys)}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keys=st.sets(KEYS, max_size=12).map(without_folders),
    prefix=st.one_of(st.just(""), KEYS, KEYS.map(lambda key: key + "/")),
    after=st.one_of(st.just(""), KEYS),
    limit=st.integers(1, 8),
)
def test_a_directory_lists_as_the_sorted_keys_do(
    tmp_path_factory: pytest.TempPathFactory,
    keys: set[str],
    prefix: str,
    after: str,
    limit: int,
) -> None:
    directory = DirectoryStore(tmp_path_factory.mktemp("store"), durable=False)
    memory = MemoryStore()
    for key in keys:
        directory.put(key, b"")
        memory.put(key, b"")
    wanted = sorted(key for key in keys if key.startswith(prefix) and key > after)[:limit]
    for store in (directory, memory):
        assert [entry.key for entry in store.list(prefix, after, limit)] == wanted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for key in ("a/1", "a/2", "b/1", "c"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes(b"body")
    return tmp_path


def found(root: Path, prefix: str = "", after: str = "") -> list[str]:
    return [entry.key for entry in walk_files(str(root), prefix, after)]


def test_a_file_that_vanishes_during_the_walk_is_left_out(root: Path) -> None:
    entries = walk_files(str(root), "", "")
    assert next(entries).key == "a/1"
    (root / "a/2").unlink()
    assert [entry.key for entry in entries] == ["b/1", "c"]


def test_a_folder_that_vanishes_during_the_walk_is_left_out(root: Path) -> None:
    entries = walk_files(str(root), "", "")
    next(entries)
    (root / "b/1").unlink()
    (root / "b").rmdir()
    assert [entry.key for entry in entries] == ["a/2", "c"]


def test_a_folder_that_does_not_exist_is_empty(root: Path) -> None:
    assert found(root, "absent/") == []
    assert found(root, "c/") == []
    assert found(root / "absent") == []


def test_unfinished_files_are_not_listed(root: Path) -> None:
    (root / ".tmp").mkdir()
    (root / ".tmp/unfinished").touch()
    (root / "a/.tmp").touch()
    assert found(root) == ["a/.tmp", "a/1", "a/2", "b/1", "c"]


def test_folders_before_the_page_are_not_entered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []
    names = walk._names

    def remember(root: str, folder: str, start: str) -> list[str]:
        entered.append(folder)
        return names(root, folder, start)

    monkeypatch.setattr(walk, "_names", remember)
    assert found(root, after="a/2") == ["b/1", "c"]
    assert found(root, after="b") == ["b/1", "c"]
    assert entered == ["", "a/", "b/", "", "b/"]


def test_a_page_looks_at_no_more_files_than_it_holds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    lstat = os.lstat

    def remember(path: str) -> os.stat_result:
        looked_at.append(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", remember)
    assert len(list(islice(walk_files(str(root), "", "a/1"), 2))) == 2
    assert looked_at == [f"{root}/a/2", f"{root}/b/1"]
