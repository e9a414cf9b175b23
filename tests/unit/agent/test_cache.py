"""The machine's cache of values, on a store without local files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudray.agent import cache as caches
from cloudray.agent.cache import AbsentError, Cache, Shelf
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol.batching import MAX_INLINE_BYTES
from cloudray.store import MemoryStore, StoreError, envelope
from cloudray.store.base import Get, Op
from cloudray.store.envelope import HEADER_BYTES, RecordError
from cloudray.values import codec

#: A value that becomes a file, with its header.
SIZE = 200_000
PART_BYTES = 300_000


class Slow(MemoryStore):
    """A store that makes the event loop wait, and notes what is asked of it."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.at_once = self.most_at_once = 0
        #: raised in place of reading what begins at this byte
        self.fail_at = -1
        self.error: Exception = StoreError("the store is down")

    async def perform_async(self, op: Op) -> Any:
        self.ops.append(op)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.1)
        self.at_once -= 1
        if isinstance(op, Get) and op.start == self.fail_at:
            raise self.error
        return self.perform(op)


class User:
    """Who was told of a file, and may open it as long as he uses it."""

    def __init__(self) -> None:
        self.uses = True

    def __call__(self) -> bool:
        return self.uses


def nobody() -> bool:
    return False


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "PART_BYTES", PART_BYTES)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def shelves(tmp_path: Path) -> list[Shelf]:
    """Memory for three values, and disk for two."""
    return [shelf(tmp_path / "memory", 3 * SIZE), shelf(tmp_path / "disk", 2 * SIZE)]


@pytest.fixture
def cache(store: Slow, shelves: list[Shelf]) -> Cache:
    return Cache(store, shelves)


def shelf(folder: Path, limit_bytes: int) -> Shelf:
    def make() -> Path:
        folder.mkdir()
        return folder

    return Shelf(make, limit_bytes)


def put(store: MemoryStore, key: str, size_bytes: int = SIZE) -> bytes:
    """Store a value that is so large with its header; returns the record."""
    body = (key.encode() * size_bytes)[: size_bytes - HEADER_BYTES]
    record = envelope.seal(envelope.Kind.OBJECT, body)
    store.put(key, record)
    return record


async def path_of(cache: Cache, key: str, user: Callable[[], bool] = nobody) -> Path:
    path = codec.local_path(await cache.payload(key, user))
    assert path is not None
    return Path(path)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in tmp_path.rglob("*") if path.is_file())


# -- what it is told -----------------------------------------------------------------------


async def test_a_large_value_is_a_file_of_its_record(cache: Cache, store: Slow) -> None:
    record = put(store, "key")
    assert (await path_of(cache, "key")).read_bytes() == record


async def test_a_value_is_downloaded_once(cache: Cache, store: Slow) -> None:
    put(store, "key")
    first = await path_of(cache, "key")
    assert await path_of(cache, "key") == first
    assert len(store.ops) == 1


async def test_who_asks_meanwhile_shares_the_download(cache: Cache, store: Slow) -> None:
    put(store, "key")
    paths = await asyncio.gather(*(path_of(cache, "key") for _ in range(10)))
    assert len(set(paths)) == 1
    assert len(store.ops) == 1


async def test_who_no_longer_waits_leaves_the_download_to_the_others(
    cache: Cache, store: Slow
) -> None:
    put(store, "key")
    first = asyncio.create_task(path_of(cache, "key"))
    second = asyncio.create_task(path_of(cache, "key"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).stat().st_size == SIZE


async def test_a_small_value_is_no_file(cache: Cache, store: Slow, tmp_path: Path) -> None:
    record = put(store, "key", MAX_INLINE_BYTES + HEADER_BYTES)
    assert await cache.payload("key", nobody) == record[HEADER_BYTES:]
    assert files(tmp_path) == []


async def test_a_value_of_many_parts_is_read_in_parallel(cache: Cache, store: Slow) -> None:
    record = put(store, "key", 7 * PART_BYTES // 2)
    for one in cache._shelves:
        one.limit_bytes = len(record)
    assert (await path_of(cache, "key")).read_bytes() == record
    assert len(store.ops) == 1 + 1 + 3
    assert 1 < store.most_at_once <= 4


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_value_around_the_size_of_a_part_is_whole(
    cache: Cache, store: Slow, more: int
) -> None:
    record = put(store, "key", PART_BYTES + more)
    assert (await path_of(cache, "key")).read_bytes() == record


async def test_without_a_shelf_every_value_travels_itself(store: Slow) -> None:
    record = put(store, "key", 3 * PART_BYTES)
    assert await Cache(store, ()).payload("key", nobody) == record[HEADER_BYTES:]


# -- the bound -----------------------------------------------------------------------------


async def test_memory_is_filled_first_then_disk(cache: Cache, store: Slow, tmp_path: Path) -> None:
    users = [User() for _ in range(5)]
    for number, user in enumerate(users):
        put(store, f"key{number}")
        await path_of(cache, f"key{number}", user)
    assert files(tmp_path) == ["disk", "disk", "memory", "memory", "memory"]


async def test_what_was_not_wanted_for_longest_goes_first(cache: Cache, store: Slow) -> None:
    for key in "abc":
        put(store, key)
        await path_of(cache, key)
    await path_of(cache, "a")
    put(store, "d")
    await path_of(cache, "d")
    before = len(store.ops)
    for key in "acd":
        await path_of(cache, key)
    assert len(store.ops) == before
    await path_of(cache, "b")
    assert len(store.ops) == before + 1


async def test_the_bound_holds_however_many_come(cache: Cache, store: Slow, tmp_path: Path) -> None:
    for number in range(20):
        put(store, f"key{number}")
    await asyncio.gather(*(path_of(cache, f"key{number}") for number in range(20)))
    assert len(files(tmp_path)) <= 5
    assert [one.used_bytes <= one.limit_bytes for one in cache._shelves] == [True, True]


async def test_what_somebody_may_still_open_stays(cache: Cache, store: Slow) -> None:
    user = User()
    put(store, "kept")
    path = await path_of(cache, "kept", user)
    for number in range(20):
        put(store, f"key{number}")
        await path_of(cache, f"key{number}")
    assert path.exists()
    user.uses = False
    for number in range(20):
        await path_of(cache, f"key{number}")
    assert not path.exists()


async def test_who_comes_later_keeps_it_too(cache: Cache, store: Slow) -> None:
    first, second = User(), User()
    put(store, "kept")
    path = await path_of(cache, "kept", first)
    await path_of(cache, "kept", second)
    first.uses = False
    for number in range(20):
        put(store, f"key{number}")
        await path_of(cache, f"key{number}")
    assert path.exists()


async def test_a_file_that_goes_stays_as_it_was_for_who_has_mapped_it(
    cache: Cache, store: Slow
) -> None:
    store.put("value", envelope.seal(envelope.Kind.OBJECT, codec.dumps(bytes(SIZE)).to_bytes()))
    path = await path_of(cache, "value")
    with path.open("rb") as opened:
        for number in range(20):
            put(store, f"key{number}")
            await path_of(cache, f"key{number}")
        assert not path.exists()
        assert codec.loads(opened.read()[HEADER_BYTES:]) == bytes(SIZE)


async def test_a_value_waits_until_another_is_let_go_of(
    cache: Cache, store: Slow, tmp_path: Path
) -> None:
    users = [User() for _ in range(5)]
    for number, user in enumerate(users):
        put(store, f"key{number}")
        await path_of(cache, f"key{number}", user)
    put(store, "more")
    more = asyncio.create_task(path_of(cache, "more"))
    await asyncio.sleep(caches.PATIENCE_S / 2)
    assert not more.done()
    users[0].uses = False
    await asyncio.sleep(2)
    assert more.done()
    assert len(files(tmp_path)) == 5


async def test_tasks_that_keep_each_other_waiting_overstep_the_bound(
    cache: Cache, store: Slow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        put(store, f"key{number}")
        await path_of(cache, f"key{number}", User())
    assert files(tmp_path).count("disk") == 3
    assert "more than its cache" in caplog.text


async def test_a_value_larger_than_the_cache_is_a_file_at_once(
    cache: Cache, store: Slow, tmp_path: Path
) -> None:
    put(store, "small")
    await path_of(cache, "small")
    record = put(store, "large", 6 * SIZE)
    assert (await path_of(cache, "large")).read_bytes() == record
    assert files(tmp_path) == ["disk", "memory"]


async def test_users_that_are_none_any_more_are_forgotten(cache: Cache, store: Slow) -> None:
    put(store, "key")
    for _ in range(10_000):
        await path_of(cache, "key")
    assert len(cache._entries["key"].users) < 1_000


async def test_the_end_of_a_cache_leaves_nothing(cache: Cache, store: Slow, tmp_path: Path) -> None:
    for key in "ab":
        put(store, key)
    await path_of(cache, "a", User())
    loading = asyncio.create_task(path_of(cache, "b"))
    await asyncio.sleep(0.05)
    cache.close()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert files(tmp_path) == []


# -- what goes wrong -----------------------------------------------------------------------


async def test_an_object_that_is_not_there_is_named(cache: Cache) -> None:
    with pytest.raises(AbsentError, match="of absent are not"):
        await cache.payload("absent", nobody)


async def test_an_object_that_is_no_value_is_refused_by_name(cache: Cache, store: Slow) -> None:
    store.put("other", envelope.seal(envelope.Kind.BATCH, bytes(SIZE)))
    store.put("garbage", bytes(SIZE))
    with pytest.raises(RecordError, match="other holds a record of kind"):
        await cache.payload("other", nobody)
    with pytest.raises(RecordError, match="garbage is not"):
        await cache.payload("garbage", nobody)


@pytest.mark.parametrize("start", [0, PART_BYTES, 3 * PART_BYTES])
async def test_half_a_download_leaves_nothing_and_is_tried_again(
    cache: Cache, store: Slow, tmp_path: Path, start: int
) -> None:
    record = put(store, "key", 4 * PART_BYTES)
    store.fail_at = start
    with pytest.raises(StoreError, match="is down"):
        await cache.payload("key", nobody)
    assert files(tmp_path) == []
    assert [one.used_bytes for one in cache._shelves] == [0, 0]
    store.fail_at = -1
    assert (await path_of(cache, "key")).read_bytes() == record


async def test_a_part_that_is_missing_makes_the_value_absent(
    cache: Cache, store: Slow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(store, "key", 4 * PART_BYTES)
    whole = store.perform

    def short(op: Op) -> Any:
        answer = whole(op)
        return answer[:-1] if isinstance(op, Get) and op.start == PART_BYTES else answer

    monkeypatch.setattr(store, "perform", short)
    with pytest.raises(AbsentError, match="of key are not"):
        await cache.payload("key", nobody)
    assert files(tmp_path) == []


def full(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Let filesystems be full, whatever the cache may have of them."""
    pwrite = os.pwrite

    def refuse(descriptor: int, body: Any, start: int) -> int:
        if any(
            f"/{folder}/" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
            for folder in folders
        ):
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, body, start)

    monkeypatch.setattr(os, "pwrite", refuse)


async def test_a_full_memory_sends_a_value_to_disk(
    cache: Cache, store: Slow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full(monkeypatch, "memory")
    put(store, "key")
    assert (await path_of(cache, "key")).parent.name == "disk"
    assert [one.used_bytes for one in cache._shelves] == [0, SIZE]
    assert files(tmp_path) == ["disk"]


async def test_where_all_is_full_the_value_is_refused_and_nothing_left(
    cache: Cache, store: Slow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full(monkeypatch, "memory", "disk")
    put(store, "key")
    with pytest.raises(
        ObjectStoreFullError, match=r"no room for 200\.0 KB in this machine's cache"
    ):
        await cache.payload("key", nobody)
    assert files(tmp_path) == []
    assert [one.used_bytes for one in cache._shelves] == [0, 0]
