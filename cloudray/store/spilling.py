"""A store in memory whose large values lie on disk where memory has no room for them.

Two directories, one in memory and one on disk. Only objects (`layout.is_object`) may lie in the
second; everything else is what coordinates the cluster, small, and in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any

from cloudray.store.base import (
    Adopt,
    Body,
    Create,
    Delete,
    Entry,
    Get,
    GetIfChanged,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
    StoreFullError,
)
from cloudray.store.bodies import check_file, size_of, views_of
from cloudray.store.directory import THREAD_BYTES, DirectoryStore
from cloudray.store.files import explain
from cloudray.store.keys import check_key
from cloudray.store.layout import QUEUE, is_object, may_lead_to_objects
from cloudray.store.room import Room, RoomSpec, room_in
from cloudray.store.space import LARGE_RECORDS, NEW_WORK
from cloudray.store.wording import doing

#: What is larger does not get the last bytes of memory.
_VITAL_BYTES = 16 << 10


class SpillingStore(Store):
    """Keys are files under `root`, in memory; those of objects may lie under `spill`, on disk.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = SpillingStore(Path(folder, "memory"), Path(folder, "disk"), memory_bytes=100)
    ...     store.put("t7/jobs/j/objects/large", bytes(1000))
    ...     Path(folder) / "disk" in store.path("t7/jobs/j/objects/large").parents
    True
    """

    inline = True

    def __init__(
        self,
        root: Path,
        spill: Path | None = None,
        *,
        memory_bytes: int | None = None,
        url: str | None = None,
    ) -> None:
        """Use these two directories, making them where they are missing.

        `memory_bytes` is how much values may take of memory; None: as much as there is. Raises
        `StoreError` when a directory cannot be made or written.
        """
        self._memory = DirectoryStore(root, durable=False, url=url)
        self._disk = None if spill is None else DirectoryStore(spill, durable=False)
        self.url = self._memory.url
        self._root = str(root.absolute())
        disk = None if spill is None else room_in(str(spill.absolute()))
        spec = RoomSpec(room_in(self._root), disk, memory_bytes, self._root)
        try:
            self._room = Room(spec)
            self._room.prepare()
        except OSError as error:
            raise explain(error, self._root, "opening the store") from error
        self.room = self._room
        self._submissions_ahead = 0

    def perform(self, op: Op) -> Any:
        """Perform one operation, blocking; raises what a `DirectoryStore` raises.

        `StoreFullError` when neither memory nor disk has room.
        """
        # What is no object goes straight on: this is the hot path of a local cluster.
        kind = type(op)
        if kind is Create or kind is Get:
            concerns_objects = is_object(op.key)  # type: ignore[union-attr]
        else:
            concerns_objects = _concerns_objects(op)
        if concerns_objects:
            try:
                return self._perform(op)
            except OSError as error:
                raise explain(error, self._root, doing(op)) from error
        if kind is Create or kind is Put:
            self._leave_some_for_others(op)  # type: ignore[arg-type]
        try:
            return self._memory.perform(op)
        except StoreFullError:
            while self._room.make_way(vital=_is_vital(op)):
                with suppress(StoreFullError):
                    return self._memory.perform(op)
            raise

    def _leave_some_for_others(self, op: Create | Put) -> None:
        """Refuse what would take the last bytes from what is under way and must end."""
        body = op.body
        if not isinstance(body, bytes) or len(body) > _VITAL_BYTES:
            part = LARGE_RECORDS
        elif _is_new_work(op):
            if self._submissions_ahead > 0:
                self._submissions_ahead -= 1
                return
            self._submissions_ahead = self._room.submissions_ahead()
            part = NEW_WORK
        else:
            return
        while why := self._room.lacks(part):
            if not self._room.make_way(vital=False):
                raise StoreFullError(
                    f"there is no room for {doing(op)}: {why}. Let go of refs that are no longer "
                    "needed, wait for results before asking for more, or pass large values by "
                    "cloudray.put, for those may go to disk."
                )

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation on the event loop; only what takes long goes to a thread."""
        if not _concerns_objects(op):
            if isinstance(op, (Create, Put)):
                return self.perform(op)
            return await self._memory.perform_async(op)
        if self._is_slow(op):
            from cloudray.store.threads import in_thread

            return await in_thread(self.perform, op)
        return self.perform(op)

    def path(self, key: str) -> Path | None:
        """Return the file that is this object, or None when absent. It is safe to map."""
        found = self._memory.path(key)
        if found is None and self._disk is not None and is_object(key):
            # Looked for in memory again: it may have moved there meanwhile.
            found = self._disk.path(key) or self._memory.path(key)
        return found

    # -- objects -----------------------------------------------------------------------------

    def _perform(self, op: Op) -> Any:  # noqa: PLR0911 - one for each operation
        match op:
            case Put():
                return self._put(op.key, op.body)
            case Adopt():
                return self._adopt(op)
            case Get() | GetIfChanged() | Head():
                return self._look(op)
            case GetMany():
                return [self.perform(Get(key, end=op.end)) for key in op.keys]
            case Delete():
                return self._delete(op.keys)
            case List():
                return self._list(op)
            case Create():
                return self._create(op)

    def _put(self, key: str, body: Body) -> None:
        check_key(key)
        self._place(key, self._room.write(views_of(body)))

    def _adopt(self, op: Adopt) -> None:
        check_key(op.key)
        check_file(op)
        if self._room.is_own(op.path):
            self._place(op.key, op.path)
            return
        # A stranger's file: moved when it lies in memory, else brought into the room.
        status = op.path.stat()
        if status.st_dev == os.stat(self._root).st_dev:  # noqa: PTH116 - a string
            self._room.count(status.st_size)
            self._place_in_memory(op.key, op.path)
            return
        with op.path.open("rb") as file:
            mapped = _map(file.fileno(), status.st_size)
        self._place(op.key, self._room.write([mapped]))
        op.path.unlink()

    def _place(self, key: str, path: Path) -> None:
        """Move a file that is counted to a key, and what was there away."""
        if self._disk is None or not self._room.is_on_disk(path):
            self._place_in_memory(key, path)
            return
        self._disk.perform(Adopt(key, path))
        replaced = self._memory.path(key)
        if replaced is not None:
            self._room.release(replaced)

    def _place_in_memory(self, key: str, path: Path) -> None:
        replaced = self._memory.path(key)
        replaced_bytes = 0 if replaced is None else replaced.stat().st_size
        self._memory.perform(Adopt(key, path))
        if replaced_bytes:
            self._room.count(-replaced_bytes)
        if self._disk is not None:
            self._disk.perform(Delete((key,)))

    def _look(self, op: Get | GetIfChanged | Head) -> Any:
        found = self._memory.perform(op)
        if found is None and self._disk is not None:
            found = self._disk.perform(op)
            if found is None:
                # It may have moved to memory meanwhile.
                found = self._memory.perform(op)
        return found

    def _create(self, op: Create) -> bool:
        if self._disk is not None and self._disk.path(op.key) is not None:
            return False
        created: bool = self._memory.perform(op)
        if created:
            self._room.count(size_of(op.body))
        return created

    def _delete(self, keys: Iterable[str]) -> None:
        others = []
        for key in keys:
            check_key(key)
            if not is_object(key):
                others.append(key)
                continue
            self._room.release(Path(f"{self._root}/{key}"))
            if self._disk is not None:
                self._disk.perform(Delete((key,)))
        if others:
            self._memory.perform(Delete(tuple(others)))

    def _list(self, op: List) -> list[Entry]:
        found: list[Entry] = self._memory.perform(op)
        spilled: list[Entry] = [] if self._disk is None else self._disk.perform(op)
        if not spilled:
            return found
        # What is in both is on its way from one to the other.
        known = {entry.key for entry in found}
        spilled = [entry for entry in spilled if entry.key not in known]
        return list(islice(merge(found, spilled, key=lambda entry: entry.key), op.limit))

    def _is_slow(self, op: Op) -> bool:
        match op:
            case Put():
                return size_of(op.body) >= THREAD_BYTES
            case Adopt():
                return not self._room.is_own(op.path)
            case Get() | GetMany() | GetIfChanged() | Delete():
                return True
        return False


def _concerns_objects(op: Op) -> bool:
    if isinstance(op, (GetMany, Delete)):
        for key in op.keys:  # noqa: SIM110 - twice as fast, on the hot path
            if is_object(key):
                return True
        return False
    return may_lead_to_objects(op.prefix) if isinstance(op, List) else is_object(op.key)


def _is_vital(op: Op) -> bool:
    """Whether the cluster comes to a halt without it: new work may be refused, old must end."""
    if isinstance(op, (Create, Put)) and size_of(op.body) <= _VITAL_BYTES:
        return not _is_new_work(op)
    return False


def _is_new_work(op: Create | Put) -> bool:
    return op.key.startswith(QUEUE) and op.key.endswith(".0")


def _map(descriptor: int, size_bytes: int) -> memoryview:
    import mmap

    if not size_bytes:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ))
