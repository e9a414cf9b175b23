from __future__ import annotations

import asyncio
import errno
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloudray.store import (
    Adopt,
    Create,
    DirectoryStore,
    Get,
    GetMany,
    Op,
    Put,
    Store,
    StoreError,
    TransientStoreError,
)
from cloudray.store.directory import ABANDONED_S, THREAD_BYTES
from cloudray.store.probe import probe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, durable=False)


def unfinished(root: Path) -> list[str]:
    return sorted(file.name for file in (root / ".tmp").iterdir())


WRITES: list[Callable[[Store], Any]] = [
    lambda store: store.perform(Create("a/b/key", b"body")),
    lambda store: store.put("a/b/key", b"body"),
    lambda store: store.put("a/b/key", [b"bo", b"dy"]),
]
write = pytest.mark.parametrize("write", WRITES, ids=["create", "put", "put-several"])


def test_an_object_is_a_file(store: DirectoryStore, root: Path) -> None:
    store.put("a/b", b"body")
    assert (root / "a/b").read_bytes() == b"body"
    assert store.path("a/b") == root / "a/b"


def test_only_an_object_has_a_path(store: DirectoryStore) -> None:
    store.put("a/b", b"body")
    assert store.path("absent") is None
    assert store.path("a") is None
    with pytest.raises(ValueError, match="is not a key"):
        store.path("../root/a/b")


def test_a_mapped_object_survives_its_replacement(store: DirectoryStore, root: Path) -> None:
    store.put("key", b"first")
    with (
        (root / "key").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        store.put("key", b"second")
        assert view[:] == b"first"
    store.delete(["key"])


def test_its_url_names_the_directory(root: Path) -> None:
    assert DirectoryStore(root, durable=False).url == f"file://{root}"
    assert DirectoryStore(root, url="file:///as-typed").url == "file:///as-typed"


def test_only_its_user_may_enter_a_directory_that_it_made(
    store: DirectoryStore, root: Path
) -> None:
    store.put("key", b"body")
    assert root.stat().st_mode & 0o777 == 0o700


@write
def test_nothing_unfinished_is_left(
    store: DirectoryStore, root: Path, write: Callable[[Store], Any]
) -> None:
    write(store)
    write(store)
    assert unfinished(root) == []


@write
def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(
    store: DirectoryStore,
    root: Path,
    write: Callable[[Store], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fill)
    monkeypatch.setattr(os, "writev", fill)
    with pytest.raises(StoreError, match=f"no space left in {root} while .* a/b/key"):
        write(store)
    assert store.get("a/b/key") is None
    assert unfinished(root) == []


@write
def test_a_folder_that_is_removed_meanwhile_is_made_again(
    store: DirectoryStore, root: Path, write: Callable[[Store], Any]
) -> None:
    write(store)
    shutil.rmtree(root / "a")
    write(store)
    assert store.get("a/b/key") == b"body"


@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_folder_that_keeps_being_removed_does_not_stop_a_write(
    store: DirectoryStore, root: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, tries = getattr(os, call), []

    def remove_first(source: str, target: str) -> None:
        tries.append(target)
        if len(tries) < 5:
            shutil.rmtree(root / "a", ignore_errors=True)
        move(source, target)

    monkeypatch.setattr(os, call, remove_first)
    WRITES[0 if call == "link" else 1](store)
    assert store.get("a/b/key") == b"body"
    assert len(tries) == 5


@write
def test_an_unfinished_file_that_vanishes_is_a_passing_trouble(
    store: DirectoryStore, write: Callable[[Store], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, replace = os.link, os.replace

    def losing(move: Callable[[str, str], None]) -> Callable[[str, str], None]:
        def lose(source: str, target: str) -> None:
            Path(source).unlink(missing_ok=True)
            move(source, target)

        return lose

    monkeypatch.setattr(os, "link", losing(link))
    monkeypatch.setattr(os, "replace", losing(replace))
    with pytest.raises(TransientStoreError, match="removed as fast as it is made"):
        write(store)


@write
def test_a_directory_that_is_gone_stays_gone(
    store: DirectoryStore, root: Path, write: Callable[[Store], Any]
) -> None:
    store.put("key", b"body")
    shutil.rmtree(root)
    with pytest.raises(StoreError, match="the directory is gone"):
        write(store)
    assert not root.exists()
    assert store.get("key") is None
    assert store.list("") == []


def test_a_key_cannot_be_another_keys_folder(store: DirectoryStore) -> None:
    store.put("a/b", b"body")
    for op in (Put("a", b""), Put("a/b/c", b""), Create("a/b/c", b""), Get("a")):
        with pytest.raises(StoreError, match="a key cannot be another key's folder"):
            store.perform(op)


def test_a_filesystem_without_hard_links_is_refused_by_the_probe(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"no hard links\. Use a directory on one that has"):
        probe(store)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/root is no directory \(Not a directory\)"):
        DirectoryStore(tmp_path / "file" / "root")


def test_a_directory_in_one_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no directory .*missing: make it"):
        DirectoryStore(tmp_path / "missing" / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", "figures", "notes.txt", "old", ".hidden"):
        (tmp_path / name).touch()
    with pytest.raises(StoreError) as raised:
        DirectoryStore(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} holds something else: figures, notes.txt, old and 1 more. Name an empty "
        "directory, or one that does not exist yet."
    )
    assert not (tmp_path / ".tmp").exists()


@pytest.mark.parametrize("name", ["lost+found", ".DS_Store", "cluster"])
def test_a_directory_that_holds_nothing_else_is_used(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert DirectoryStore(tmp_path).perform(Create("key", b"body"))


def test_what_a_crash_left_unfinished_is_removed_a_day_later(root: Path) -> None:
    DirectoryStore(root, durable=False)
    old, new = root / ".tmp/old", root / ".tmp/new"
    for file in (old, new):
        file.touch()
    then_s = old.stat().st_mtime - ABANDONED_S - 60
    os.utime(old, (then_s, then_s))
    DirectoryStore(root, durable=False)
    assert unfinished(root) == ["new"]


def test_processes_that_share_the_directory_do_not_share_names(root: Path) -> None:
    one, other = DirectoryStore(root, durable=False), DirectoryStore(root, durable=False)
    names = {store._new_name() for store in (one, other) for _ in range(100)}
    assert len(names) == 200


def test_a_file_from_another_filesystem_is_copied(
    store: DirectoryStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"body")
    replace = os.replace

    def refuse(source: str, target: str) -> None:
        if source == str(file):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    store.perform(Adopt("a/b", file))
    assert store.get("a/b") == b"body"
    assert not file.exists()
    assert unfinished(root) == []


def test_a_file_of_the_same_filesystem_is_moved(store: DirectoryStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"body")
    inode = file.stat().st_ino
    store.perform(Adopt("a/b", file))
    path = store.path("a/b")
    assert path is not None
    assert path.stat().st_ino == inode


@pytest.fixture
def calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a store says to the kernel, with the file it says it of."""
    said: list[str] = []

    def name(path: str | int) -> str:
        full = str(Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path)
        below = full.removeprefix(str(root))
        return "temp" if below.startswith("/.tmp/") else below or "/"

    def listen(call: str, paths: int) -> None:
        original = getattr(os, call)

        def say(*arguments: Any) -> Any:
            said.append(" ".join([call, *map(name, arguments[:paths])]))
            return original(*arguments)

        monkeypatch.setattr(os, call, say)

    for call, paths in (("fsync", 1), ("link", 2), ("replace", 2), ("mkdir", 1)):
        listen(call, paths)
    return said


def test_a_durable_create_syncs_the_file_before_its_name(root: Path, calls: list[str]) -> None:
    store = DirectoryStore(root)
    calls.clear()
    store.perform(Create("key", b"body"))
    assert calls == ["fsync temp", "link temp /key", "fsync /"]


def test_a_durable_put_syncs_the_file_before_its_name(root: Path, calls: list[str]) -> None:
    store = DirectoryStore(root)
    calls.clear()
    store.put("key", b"body")
    assert calls == ["fsync temp", "replace temp /key", "fsync /"]


def test_a_durable_write_syncs_the_folders_that_it_makes(root: Path, calls: list[str]) -> None:
    store = DirectoryStore(root)
    calls.clear()
    store.perform(Create("a/b/key", b"body"))
    assert calls == [
        "fsync temp",
        "link temp /a/b/key",
        "mkdir /a",
        "fsync /",
        "mkdir /a/b",
        "fsync /a",
        "link temp /a/b/key",
        "fsync /a/b",
    ]


def test_a_durable_create_that_cannot_win_syncs_nothing(root: Path, calls: list[str]) -> None:
    store = DirectoryStore(root)
    store.put("key", b"body")
    calls.clear()
    assert store.perform(Create("key", b"other")) is False
    assert calls == []


def test_a_durable_adoption_syncs_the_file_before_its_name(root: Path, calls: list[str]) -> None:
    store = DirectoryStore(root)
    file = root.parent / "file"
    file.write_bytes(b"body")
    calls.clear()
    store.perform(Adopt("key", file))
    assert calls == [f"fsync {file}", f"replace {file} /key", "fsync /"]


def test_a_store_that_is_not_durable_syncs_nothing(store: DirectoryStore, calls: list[str]) -> None:
    for write in WRITES:
        write(store)
    assert not [call for call in calls if call.startswith("fsync")]


def runs_inline(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether a coroutine ends without waiting for anything."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


@pytest.mark.parametrize(
    "op", [Create("new", b"body"), Put("key", b"body"), Get("key"), GetMany(("key", "absent"))]
)
def test_on_an_event_loop_what_is_small_suspends_nobody(store: DirectoryStore, op: Op) -> None:
    store.put("key", b"body")
    assert store.inline
    assert runs_inline(store.perform_async(op))


@pytest.fixture
def threads(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that performed an operation by blocking."""
    found: list[int] = []
    perform = store.perform

    def remember(op: Op) -> Any:
        found.append(threading.get_ident())
        return perform(op)

    monkeypatch.setattr(store, "perform", remember)
    return found


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        (Create("new", bytes(THREAD_BYTES)), True),
        (Put("large", [b"", bytes(THREAD_BYTES)]), None),
        (Get("large"), bytes(THREAD_BYTES)),
        (Get("large", 0, THREAD_BYTES + 5), bytes(THREAD_BYTES)),
        (GetMany(("absent", "large")), [None, bytes(THREAD_BYTES)]),
    ],
    ids=["create", "put", "get", "get-range", "get-many"],
)
def test_on_an_event_loop_what_is_large_goes_to_a_thread(
    store: DirectoryStore, threads: list[int], op: Op, answer: Any
) -> None:
    store.put("large", bytes(THREAD_BYTES))
    threads.clear()
    assert asyncio.run(store.perform_async(op)) == answer
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_on_an_event_loop_a_part_of_a_large_object_suspends_nobody(store: DirectoryStore) -> None:
    store.put("large", bytes(THREAD_BYTES))
    assert runs_inline(store.perform_async(Get("large", 5, 50)))
    assert runs_inline(store.perform_async(Get("large", THREAD_BYTES - 5)))


def test_a_durable_store_is_not_inline_and_writes_in_threads(root: Path) -> None:
    store = DirectoryStore(root)
    assert not store.inline
    store.put("key", b"body")
    assert runs_inline(store.perform_async(Get("key")))

    async def write() -> None:
        assert await store.perform_async(Create("new", b"body")) is True

    asyncio.run(write())
    with pytest.raises(RuntimeError, match="no running event loop"):
        runs_inline(store.perform_async(Put("key", b"body")))


def test_readers_never_see_half_a_body(store: DirectoryStore) -> None:
    bodies = [bytes([letter]) * 100_000 for letter in b"ab"]
    store.put("key", bodies[0])
    stop = threading.Event()

    def overwrite() -> None:
        while not stop.is_set():
            for body in bodies:
                store.put("key", body)

    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(overwrite)
        try:
            assert {store.get("key") for _ in range(300)} <= set(bodies)
        finally:
            stop.set()
        writer.result()


def test_threads_that_make_the_same_folders_do_not_collide(store: DirectoryStore) -> None:
    keys = [f"{folder}/a/b/{key}" for folder in range(20) for key in range(4)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(store.perform, [Create(key, b"body") for key in keys]))
    assert [entry.key for entry in store.list("")] == sorted(keys)
