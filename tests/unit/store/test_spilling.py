from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cloudray.store import (
    Adopt,
    Counting,
    Create,
    Delete,
    FaultPlan,
    Faulty,
    Get,
    Ledger,
    List,
    MemoryStore,
    Op,
    Put,
    Reliable,
    SpillingStore,
    StoreError,
    StoreFullError,
    open_store,
    threads,
)
from cloudray.store.spares import SMALLEST_BYTES

MB = SMALLEST_BYTES
FOLDER = "t7/jobs/job/objects/"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def store(memory: Path, disk: Path) -> SpillingStore:
    return SpillingStore(memory, disk, memory_bytes=4 * MB)


def place_of(store: SpillingStore, name: str) -> Path:
    path = store.path(FOLDER + name)
    assert path is not None
    return path


def used(store: SpillingStore) -> int:
    assert store.room is not None
    counted = store.room.used_bytes()
    store.room.recount()
    assert store.room.used_bytes() == counted
    return counted


def fill(
    monkeypatch: pytest.MonkeyPatch, store: SpillingStore, refuse: Callable[[Op], bool]
) -> None:
    """From now on memory has no room for what is `refuse`d."""
    perform = store._memory.perform

    def full(op: Op) -> Any:
        if refuse(op):
            raise StoreFullError("no space left")
        return perform(op)

    monkeypatch.setattr(store._memory, "perform", full)


# -- where things lie ----------------------------------------------------------------------


def test_values_lie_in_memory_while_it_has_room(store: SpillingStore, memory: Path) -> None:
    store.put(FOLDER + "a", bytes(3 * MB))
    assert memory in place_of(store, "a").parents
    assert used(store) == 3 * MB


def test_then_they_lie_on_disk(store: SpillingStore, disk: Path) -> None:
    store.put(FOLDER + "a", bytes(3 * MB))
    store.put(FOLDER + "b", bytes(2 * MB))
    assert disk in place_of(store, "b").parents
    assert used(store) == 3 * MB


def test_what_is_no_value_never_lies_on_disk(memory: Path, disk: Path) -> None:
    store = SpillingStore(memory, disk, memory_bytes=0)
    store.put("queue/a", bytes(MB))
    assert store.path("queue/a") == memory / "queue" / "a"
    assert used(store) == 0


def test_without_a_disk_nothing_is_spilled(memory: Path) -> None:
    store = SpillingStore(memory, memory_bytes=MB)
    with pytest.raises(StoreFullError, match="nothing may be spilled"):
        store.put(FOLDER + "a", bytes(2 * MB))
    assert store.get(FOLDER + "a") is None
    store.put(FOLDER + "a", bytes(MB))
    assert store.head(FOLDER + "a") is not None


def test_all_who_open_it_share_one_account(store: SpillingStore, memory: Path, disk: Path) -> None:
    other = SpillingStore(memory, disk, memory_bytes=4 * MB)
    other.put(FOLDER + "a", bytes(3 * MB))
    store.put(FOLDER + "b", bytes(2 * MB))
    assert disk in place_of(other, "b").parents


def test_opening_it_again_later_leaves_the_room_alone(store: SpillingStore, memory: Path) -> None:
    store.put(FOLDER + "a", bytes(MB))
    room = memory / ".tmp" / "room"
    os.utime(room, (0, 0))
    again = SpillingStore(memory, memory_bytes=4 * MB)
    assert used(again) == MB


# -- adopting ------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [MB, 5 * MB], ids=["memory", "disk"])
def test_a_file_from_the_room_is_only_renamed(store: SpillingStore, size_bytes: int) -> None:
    assert store.room is not None
    path = store.room.write([bytes(size_bytes)])
    inode = path.stat().st_ino
    store.perform(Adopt(FOLDER + "a", path))
    assert place_of(store, "a").stat().st_ino == inode
    assert used(store) == (size_bytes if size_bytes == MB else 0)


def test_a_stranger_s_file_is_counted(store: SpillingStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    store.perform(Adopt(FOLDER + "a", file))
    assert used(store) == 1000


def test_a_file_on_another_filesystem_is_brought_into_the_room(
    store: SpillingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"far away")
    stat = Path.stat

    def elsewhere(path: Path, **options: Any) -> Any:
        found = stat(path, **options)
        if path != file:
            return found
        return os.stat_result((*found[:2], -1, *found[3:]))

    monkeypatch.setattr(Path, "stat", elsewhere)
    store.perform(Adopt(FOLDER + "a", file))
    assert store.get(FOLDER + "a") == b"far away"
    assert used(store) == 8
    assert not file.exists()


def test_a_value_that_replaces_one_is_counted_once(store: SpillingStore) -> None:
    store.put(FOLDER + "a", bytes(3 * MB))
    store.put(FOLDER + "a", b"12345")
    assert used(store) == 5


def test_a_value_that_replaces_one_elsewhere_moves(store: SpillingStore, disk: Path) -> None:
    store.put(FOLDER + "a", b"small")
    store.put(FOLDER + "a", bytes(5 * MB))
    assert disk in place_of(store, "a").parents
    assert used(store) == 0
    store.put(FOLDER + "a", b"small again")
    assert store.get(FOLDER + "a") == b"small again"
    assert [path for path in disk.rglob("a") if path.is_file()] == []
    assert len(store.list(FOLDER)) == 1


# -- deleting and listing ------------------------------------------------------------------


def test_deleted_values_give_their_bytes_back(store: SpillingStore, disk: Path) -> None:
    for name in ("a", "b", "c"):
        store.put(FOLDER + name, bytes(2 * MB))
    assert disk in place_of(store, "c").parents
    store.delete([FOLDER + "a", FOLDER + "c", "queue/x", FOLDER + "absent"])
    assert [entry.key for entry in store.list("")] == [FOLDER + "b"]
    assert used(store) == 2 * MB


def test_values_and_other_keys_are_deleted_together(store: SpillingStore) -> None:
    store.put("queue/a", b"entry")
    store.put(FOLDER + "a", b"value")
    store.delete(["queue/a", FOLDER + "a"])
    assert store.list("") == []


def test_a_listing_has_both_places_in_order(store: SpillingStore) -> None:
    for number in (4, 0, 2):
        store.put(f"{FOLDER}{number}", bytes(MB))
    for number in (1, 5, 3):
        store.put(f"{FOLDER}{number}", bytes(3 * MB))
    listed = [entry.key[-1] for entry in store.list(FOLDER)]
    assert listed == ["0", "1", "2", "3", "4", "5"]
    assert [entry.key[-1] for entry in store.list("t", FOLDER + "1", 3)] == ["2", "3", "4"]


def test_a_listing_of_other_keys_does_not_look_on_disk(
    store: SpillingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._disk, "perform", None)
    store.put("queue/a", b"")
    assert [entry.key for entry in store.list("queue/")] == ["queue/a"]


# -- when memory is full -------------------------------------------------------------------


def test_what_cannot_lie_on_disk_gets_the_space_of_spare_files(
    store: SpillingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.room is not None
    store.put(FOLDER + "a", bytes(MB))
    store.delete([FOLDER + "a"])
    spare = store.room.spare_bytes
    assert spare() == MB
    fill(monkeypatch, store, lambda _: spare() > 0)
    assert store.perform(Create("queue/b.0", b"entry")) is True
    assert spare() == 0


@pytest.mark.parametrize(
    ("op", "is_written"),
    [
        pytest.param(Create("t7/jobs/j/results/s/1.0", b"word"), True, id="last-word"),
        pytest.param(Put("agents/a", b"beat"), True, id="heartbeat"),
        pytest.param(Create("queue/b.1", b"claim"), True, id="claim"),
        pytest.param(Create("queue/b.0", b"work"), False, id="new-work"),
        pytest.param(Create("t7/jobs/j/results/s/1.0", bytes(MB)), False, id="large-word"),
    ],
)
def test_the_last_bytes_are_for_what_nothing_goes_on_without(
    store: SpillingStore,
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    op: Create | Put,
    is_written: bool,
) -> None:
    ballast = memory / ".tmp" / "room" / "ballast"
    assert ballast.stat().st_size > 0
    fill(monkeypatch, store, lambda _: ballast.exists())
    if is_written:
        store.perform(op)
    else:
        with pytest.raises(StoreFullError):
            store.perform(op)
    assert ballast.exists() is not is_written


def test_a_room_that_breaks_is_a_store_error(
    store: SpillingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "writev", broken)
    with pytest.raises(StoreError, match=f"writing {FOLDER}a in .* failed: Input/output error"):
        store.put(FOLDER + "a", [b"two", b"parts"])


# -- on an event loop ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "in_thread"),
    [
        (Put(FOLDER + "a", bytes(2 * MB)), True),
        (Get(FOLDER + "a"), True),
        (Delete((FOLDER + "a",)), True),
        (Put(FOLDER + "a", b"small"), False),
        (List(FOLDER), False),
        (Create("queue/a", b""), False),
        (Delete(("queue/a",)), False),
    ],
)
def test_only_what_takes_long_goes_to_a_thread(
    store: SpillingStore, monkeypatch: pytest.MonkeyPatch, op: Op, in_thread: bool
) -> None:
    called = []
    call = threads.in_thread

    async def note(*args: Any) -> Any:
        called.append(args)
        return await call(*args)

    monkeypatch.setattr(threads, "in_thread", note)
    asyncio.run(store.perform_async(op))
    assert bool(called) is in_thread


def test_a_file_from_the_room_is_adopted_without_a_thread(
    store: SpillingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.room is not None
    path = store.room.write([bytes(5 * MB)])
    monkeypatch.setattr(threads, "in_thread", None)
    asyncio.run(store.perform_async(Adopt(FOLDER + "a", path)))
    assert store.path(FOLDER + "a") is not None


# -- how others see it ---------------------------------------------------------------------


def test_wrappers_hand_on_the_room(store: SpillingStore) -> None:
    plan = FaultPlan()
    wrapped = Reliable(Faulty(Counting(store, Ledger()), Random(1), plan))
    assert wrapped.room is store.room is not None
    assert wrapped.inline


def test_other_stores_have_no_room() -> None:
    assert Reliable(MemoryStore()).room is None


def test_it_is_opened_by_a_url(memory: Path, disk: Path) -> None:
    url = f"file://{memory}?durable=false&memory=1000&spill={disk}"
    store = open_store(url)
    assert store.room is not None
    assert store.url == url
    spec = store.room.spec
    assert (spec.memory_bytes, spec.root) == (1000, str(memory))
    store.put(FOLDER + "a", bytes(2000))
    path = store.path(FOLDER + "a")
    assert path is not None
    assert disk in path.parents


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("durable=true&memory=1000", "which is for folders in memory: add durable=false"),
        ("spill=/disk", "add durable=false"),
        ("durable=false&memory=much", "memory=much in .* is not a number of bytes"),
        ("durable=false&spill=disk", "spill=disk in .* does not name a folder from the root"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(memory: Path, query: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_store(f"file://{memory}?{query}")
    assert not memory.exists()
