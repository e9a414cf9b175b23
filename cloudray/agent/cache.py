"""Values from stores without local files: downloaded once for all executors of the machine.

A value becomes a file in shared memory, or on disk where there is no room left in memory, and
executors are told its path. Together the files have a bound. The one that nobody has asked for the
longest goes first, but none goes that somebody was told of and may not have mapped yet. Who has
mapped a file keeps what he sees when it goes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudray import platform
from cloudray.exceptions import ObjectStoreFullError
from cloudray.folders import PrivateFolder
from cloudray.protocol.batching import MAX_INLINE_BYTES
from cloudray.sizes import show_size
from cloudray.store import envelope
from cloudray.store.base import Entry, Get, Head, Store
from cloudray.store.bodies import PART_BYTES
from cloudray.store.files import FULL, discard
from cloudray.store.signing import Signature, parts_of
from cloudray.values import codec

_log = logging.getLogger(__name__)

#: Parts of one value that travel at once.
_READERS = 4
#: How often, at most, it is looked whether files are still in use when there is no other room.
_LOOK_S, _RARE_LOOK_S = 0.02, 1.0
#: For so long a value waits for others to be let go of; then the bound is overstepped, because
#: what they are kept for may be waiting for this very value.
PATIENCE_S = 10.0


#: Of the machine's memory, what is used for values unless its agent is told otherwise.
_MEMORY_SHARE = 0.1
#: Larger parts are written by a thread, because disks are slow.
_THREAD_BYTES = 1 << 20
#: When a file has had more users, those are forgotten that are none any more.
_MANY_USERS = 100


class AbsentError(Exception):
    """An object is not in the store, or not as whole as it should be: the message says which."""


class Shelf:
    """A folder for files, and how many bytes they may have."""

    def __init__(self, folder: Callable[[], Path], limit_bytes: int) -> None:
        """`folder` makes the folder, once there is something to put there."""
        self._make_folder = folder
        self._folder: Path | None = None
        self.limit_bytes = limit_bytes
        #: bytes of the files that are here, or on their way
        self.used_bytes = 0
        self._serial = 0

    def new_path(self) -> str:
        """A name that no other file here has."""
        if self._folder is None:
            self._folder = self._make_folder()
        self._serial += 1
        return str(self._folder / f"{self._serial}")


class CacheFolders:
    """The folders of one agent's cache: in memory and on disk, made when they are needed."""

    def __init__(self) -> None:
        self._made: list[PrivateFolder] = []

    def shelves(self, memory_bytes: float | None, disk_bytes: float) -> tuple[Shelf, Shelf]:
        """Shelves of these sizes; by default a tenth of the machine's memory is used."""
        if memory_bytes is None:
            memory_bytes = platform.memory_bytes() * _MEMORY_SHARE
        return (
            Shelf(lambda: self._make(platform.memory_folder()), int(memory_bytes)),
            Shelf(lambda: self._make(platform.spill_folder()), int(disk_bytes)),
        )

    def scratch(self) -> Path:
        """A folder on disk for whatever goes with this agent."""
        return self._make(platform.spill_folder())

    def remove(self) -> None:
        """Remove the folders. Idempotent."""
        while self._made:
            self._made.pop().remove()

    def _make(self, base: Path) -> Path:
        folder = PrivateFolder(base, f"cloudray-cache-{os.getuid()}-")
        self._made.append(folder)
        return folder.path


class _File:
    """A value that is here."""

    __slots__ = ("path", "prune_at", "shelf", "size_bytes", "users")

    def __init__(
        self, path: str, size_bytes: int, shelf: Shelf, users: list[Callable[[], bool]]
    ) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.shelf = shelf
        #: each says whether somebody who was told the path may still open it
        self.users = users
        self.prune_at = _MANY_USERS

    def use(self, user: Callable[[], bool]) -> None:
        self.users.append(user)
        if len(self.users) > self.prune_at:
            self.is_in_use()
            self.prune_at = max(_MANY_USERS, 2 * len(self.users))

    def is_in_use(self) -> bool:
        self.users[:] = [user for user in self.users if user()]
        return bool(self.users)


class Cache:
    """The values that this machine has read from its store."""

    def __init__(self, store: Store, shelves: Sequence[Shelf]) -> None:
        """Put values on the first of `shelves` that has room."""
        self._store = store
        self._shelves = shelves
        #: the least recently wanted first
        self._entries: OrderedDict[str, _File] = OrderedDict()
        #: downloads under way, and who waits for them
        self._loading: dict[str, tuple[asyncio.Task[_File | bytes], list[Callable[[], bool]]]] = {}

    async def payload(self, key: str, in_use: Callable[[], bool]) -> bytes:
        """What to send to an executor for an object: the value itself if it is small, or its file.

        The file stays at least until `in_use` says False.

        Raises `AbsentError`, `RecordError` for a body that is no value, `StoreError` when the
        store cannot be read, and `ObjectStoreFullError` when there is no room for the file.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            entry.use(in_use)
            return codec.local(entry.path)
        loading = self._loading.get(key)
        if loading is None:
            users: list[Callable[[], bool]] = []
            task = asyncio.get_running_loop().create_task(self._load(key, users))
            loading = self._loading[key] = task, users
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        task, users = loading
        users.append(in_use)
        # Whoever is cancelled leaves the download to the others.
        found = await asyncio.shield(task)
        return found if isinstance(found, bytes) else codec.local(found.path)

    def close(self) -> None:
        """Stop downloads, and remove all files."""
        for task, _ in self._loading.values():
            task.cancel()
        for key in list(self._entries):
            self._remove(key)

    # -- downloading -------------------------------------------------------------------------

    async def _load(self, key: str, users: list[Callable[[], bool]]) -> _File | bytes:
        # Small values come with this one request, and most values are small.
        first = await self._read(key, 0, PART_BYTES)
        signature = self._store.signature(key)
        if signature is not None:
            signature.add(0, first)
            if len(first) < PART_BYTES:
                signature.check()
        payload = envelope.open_sealed(envelope.Kind.OBJECT, first, key)
        if len(payload) <= MAX_INLINE_BYTES:
            return bytes(payload)
        size_bytes = len(first) if len(first) < PART_BYTES else await self._size_of(key)
        if not self._shelves:
            rest = await self._rest_of(key, len(first), size_bytes, signature)
            return b"".join((payload, rest))
        shelf = await self._reserve(size_bytes)
        try:
            path = await self._write(key, first, size_bytes, shelf, signature)
        except OSError as error:
            shelf.used_bytes -= size_bytes
            if error.errno not in FULL:
                raise
            # Others have filled that filesystem, whatever we may have of it.
            shelf = self._shelves[-1]
            shelf.used_bytes += size_bytes
            path = await self._write_last(key, first, size_bytes, shelf, signature)
        except BaseException:
            shelf.used_bytes -= size_bytes
            raise
        found = self._entries[key] = _File(path, size_bytes, shelf, users)
        return found

    async def _rest_of(self, key: str, start: int, end: int, signature: Signature | None) -> bytes:
        """What follows the first part, for whoever has no place for a file."""
        rest = await self._read(key, start, end)
        if signature is not None:
            for number, part in enumerate(parts_of(rest), 1):
                signature.add(number, part)
            signature.check()
        return rest

    async def _write_last(
        self, key: str, first: bytes, size_bytes: int, shelf: Shelf, signature: Signature | None
    ) -> str:
        try:
            return await self._write(key, first, size_bytes, shelf, signature)
        except BaseException as error:
            shelf.used_bytes -= size_bytes
            if isinstance(error, OSError) and error.errno in FULL:
                raise ObjectStoreFullError(
                    f"there is no room for {show_size(size_bytes)} in this machine's cache: "
                    f"{error.strerror}. Free some space there, or give agents a smaller cache."
                ) from error
            raise

    async def _write(
        self, key: str, first: bytes, size_bytes: int, shelf: Shelf, signature: Signature | None
    ) -> str:
        path = shelf.new_path()
        # Under a name of its own until it is whole.
        partial = f"{path}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            await _write_at(descriptor, first, 0)
            starts = iter(range(len(first), size_bytes, PART_BYTES))

            async def read_parts() -> None:
                for start in starts:
                    end = min(start + PART_BYTES, size_bytes)
                    part = await self._read(key, start, end)
                    if signature is not None:
                        # A second of work for a value that takes many: not on the event loop.
                        await asyncio.to_thread(signature.add, start // PART_BYTES, part)
                    await _write_at(descriptor, part, start)

            readers = [asyncio.create_task(read_parts()) for _ in range(_READERS)]
            try:
                await asyncio.gather(*readers)
            finally:
                for reader in readers:
                    reader.cancel()
                # None of them may write any more when the descriptor is closed.
                await asyncio.gather(*readers, return_exceptions=True)
            if signature is not None:
                # Before anybody is told the name: what an executor maps, it unpickles.
                signature.check()
            os.rename(partial, path)  # noqa: PTH104 - at once
        except BaseException:
            discard(partial)
            raise
        finally:
            os.close(descriptor)
        return path

    async def _size_of(self, key: str) -> int:
        entry: Entry | None = await self._store.perform_async(Head(key))
        if entry is None:
            raise AbsentError(f"{key} is not in the store")
        return entry.size_bytes

    async def _read(self, key: str, start: int, end: int) -> bytes:
        if start == end:
            return b""
        body: bytes | None = await self._store.perform_async(Get(key, start, end))
        if body is None or (start and len(body) != end - start):
            raise AbsentError(f"bytes {start} to {end} of {key} are not in the store")
        return body

    # -- room --------------------------------------------------------------------------------

    async def _reserve(self, size_bytes: int) -> Shelf:
        """A shelf on which there is room for so much, made by removing what is not in use."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + PATIENCE_S
        delay_s = _LOOK_S
        fits = any(size_bytes <= shelf.limit_bytes for shelf in self._shelves)
        while True:
            for shelf in self._shelves:
                if self._make_room(shelf, size_bytes):
                    shelf.used_bytes += size_bytes
                    return shelf
            if not fits or loop.time() >= deadline_s:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RARE_LOOK_S)
        shelf = self._shelves[-1]
        self._make_room(shelf, size_bytes, anyway=True)
        shelf.used_bytes += size_bytes
        _log.warning(
            "the values that tasks of this machine use at the same time are %s, more than its "
            "cache of %s",
            show_size(sum(one.used_bytes for one in self._shelves)),
            show_size(sum(one.limit_bytes for one in self._shelves)),
        )
        return shelf

    def _make_room(self, shelf: Shelf, size_bytes: int, *, anyway: bool = False) -> bool:
        """Remove what is not in use until so much fits.

        Nothing is removed where it would not fit then, unless it is to be written `anyway`.
        """
        lacking = shelf.used_bytes + size_bytes - shelf.limit_bytes
        leaving: list[str] = []
        for key, entry in self._entries.items():
            if lacking <= 0:
                break
            if entry.shelf is shelf and not entry.is_in_use():
                leaving.append(key)
                lacking -= entry.size_bytes
        if lacking > 0 and not anyway:
            return False
        for key in leaving:
            self._remove(key)
        return True

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        entry.shelf.used_bytes -= entry.size_bytes
        with suppress(OSError):
            discard(entry.path)


async def _write_at(descriptor: int, body: bytes, start: int) -> None:
    if len(body) < _THREAD_BYTES:
        _pwrite(descriptor, body, start)
    else:
        await asyncio.to_thread(_pwrite, descriptor, body, start)


def _pwrite(descriptor: int, body: bytes, start: int) -> None:
    view: Any = memoryview(body)
    while view:
        written = os.pwrite(descriptor, view, start)
        view = view[written:]
        start += written
