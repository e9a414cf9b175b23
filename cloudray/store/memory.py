"""A store in this process's memory: for tests, and for programs that want no files at all."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from itertools import count
from typing import Any

from cloudray.store.base import (
    UNCHANGED,
    Adopt,
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
    Tagged,
    Unchanged,
)
from cloudray.store.bodies import check_file, join, range_of
from cloudray.store.keys import check_key, check_prefix


class MemoryStore(Store):
    """Objects in a dictionary, shared by the threads of one process.

    >>> store = MemoryStore()
    >>> store.put("key", [b"two ", b"parts"])
    >>> store.get("key")
    b'two parts'
    """

    inline = True

    def __init__(self, url: str = "memory://") -> None:
        """Make an empty store; `url` only names it."""
        self.url = url
        self._lock = threading.Lock()
        #: body and version of each object, and when it was written
        self._objects: dict[str, tuple[bytes, int, int]] = {}
        #: what time it is (UTC seconds), for tests and simulations to replace
        self.clock: Callable[[], float] = time.time
        #: its keys, sorted
        self._keys: list[str] = []
        self._versions = count(1)

    def perform(self, op: Op) -> Any:  # noqa: PLR0911 - one for each operation
        """Perform one operation.

        Raises `ValueError` when a key is none, `StoreError` when a file to adopt is missing.
        """
        match op:
            case Create():
                return self._write(op.key, join(op.body), replace=False)
            case Get():
                return self._read(op)
            case Put():
                self._write(op.key, join(op.body), replace=True)
                return None
            case GetMany():
                return [self._read(Get(key, end=op.end)) for key in op.keys]
            case GetIfChanged():
                return self._read_if_changed(op)
            case List():
                return self._list(op)
            case Delete():
                return self._delete(op.keys)
            case Head():
                check_key(op.key)
                with self._lock:
                    return self._entry(op.key) if op.key in self._objects else None
            case Adopt():
                check_file(op)
                self._write(op.key, op.path.read_bytes(), replace=True)
                op.path.unlink()
                return None

    def _write(self, key: str, body: bytes, *, replace: bool) -> bool:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                insort(self._keys, key)
            elif not replace:
                return False
            self._objects[key] = body, next(self._versions), int(self.clock())
            return True

    def _read(self, op: Get) -> bytes | None:
        check_key(op.key)
        start, end = range_of(op)
        with self._lock:
            body, *_ = self._objects.get(op.key, (None, 0, 0))
        return None if body is None else body[start:end]

    def _read_if_changed(self, op: GetIfChanged) -> Tagged | Unchanged | None:
        check_key(op.key)
        with self._lock:
            body, version, _ = self._objects.get(op.key, (None, 0, 0))
        if body is None:
            return None
        return UNCHANGED if str(version) == op.etag else Tagged(body[: op.end], str(version))

    def _list(self, op: List) -> list[Entry]:
        check_prefix(op.prefix)
        with self._lock:
            first = bisect_left(self._keys, op.prefix)
            if op.after >= op.prefix:
                first = bisect_right(self._keys, op.after)
            page = []
            for key in self._keys[first : first + op.limit]:
                if not key.startswith(op.prefix):
                    break
                page.append(self._entry(key))
            return page

    def _entry(self, key: str) -> Entry:
        body, version, modified_s = self._objects[key]
        return Entry(key, len(body), str(version), modified_s)

    def _delete(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            check_key(key)
            with self._lock:
                if self._objects.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
