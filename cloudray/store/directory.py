# Raw calls, not pathlib: this is the hot path of a local cluster.
# ruff: noqa: PTH102, PTH105, PTH108, PTH110, PTH113, PTH116, PTH120
"""A store in a directory: a key is a file, and put-if-absent is `link`.

A body is written under a name of its own first, so a key never shows half of one, and a key's
file is never written again, so it may be mapped while it is replaced.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

from cloudray.platform import on_fork
from cloudray.store.base import (
    UNCHANGED,
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
    Tagged,
    TransientStoreError,
    Unchanged,
)
from cloudray.store.bodies import check_file, range_of, size_of
from cloudray.store.files import (
    SMALL_BYTES,
    discard,
    explain,
    explain_opening,
    read_range,
    something_else,
    sync,
    write_all,
)
from cloudray.store.keys import RESERVED, check_key, check_prefix
from cloudray.store.layout import CLUSTER
from cloudray.store.walk import etag_of, walk
from cloudray.store.wording import doing

#: On an event loop, larger bodies are read and written by a thread.
THREAD_BYTES = 1 << 20
#: An unfinished file older than this was left by a crash.
ABANDONED_S = 86_400.0
#: What a file system puts into a directory that is empty otherwise.
_HARMLESS = {"lost+found"}
#: How often a write starts again because somebody removed the folder under it.
_TRIES = 100
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
#: A pipe that somebody has put there has nothing to say, and nobody waits for it.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)


class _LargeFileError(Exception):
    """Tells `perform_async` to leave a read to a thread."""


class _Process:
    """The number of this process, without a system call each time it is wanted."""

    def __init__(self) -> None:
        self.note()

    def note(self) -> None:
        """Find out; again in a forked child."""
        self.pid = os.getpid()


_process = _Process()
on_fork(_process.note)


class DirectoryStore(Store):
    """Keys are the files under `root`.

    A durable store survives a crash of the machine: it syncs each file and its folder before it
    answers. A store that is not durable answers within microseconds.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = DirectoryStore(Path(folder), durable=False)
    ...     store.perform(Create("a/b", b"first")), store.perform(Create("a/b", b"second"))
    (True, False)
    """

    def __init__(self, root: Path, *, durable: bool = True, url: str | None = None) -> None:
        """Use the directory `root`, making it, for its user only, when it is missing.

        Raises `StoreError` when it cannot be made or written, or holds something else.
        """
        root = root.absolute()
        self.url = url or root.as_uri()
        self.inline = not durable
        self._durable = durable
        self._root = str(root)
        self._base = f"{self._root}/"
        self._temp_folder = f"{self._root}/{RESERVED}"
        # The token keeps apart processes that share the directory but not their numbers.
        self._temp_stem = f"{self._temp_folder}/{os.urandom(6).hex()}"
        self._serial = count()
        try:
            self._make_root()
            self._device = os.stat(self._root).st_dev
            self._remove_abandoned()
        except OSError as error:
            raise explain_opening(error, self._root) from error

    def _make_root(self) -> None:
        """Make what is missing of the store's directory; refuse one that is something else's."""
        with suppress(FileExistsError):
            os.mkdir(self._root, 0o700)
        with os.scandir(self._root) as entries:
            names = [entry.name for entry in entries]
        if RESERVED not in names:
            others = sorted(name for name in names if name[0] != "." and name not in _HARMLESS)
            if others and CLUSTER not in others:
                raise something_else(self._root, others)
            with suppress(FileExistsError):
                os.mkdir(self._temp_folder)

    def perform(self, op: Op) -> Any:
        """Perform one operation, blocking.

        Raises `StoreError`, or `TransientStoreError` when it may work later; `ValueError` when
        a key is none.
        """
        try:
            return self._perform(op)
        except OSError as error:
            raise explain(error, self._root, doing(op)) from error

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation on the event loop; only what takes long goes to a thread."""
        try:
            if self._is_slow(op):
                return await self._in_thread(op)
            return self._perform(op, large_bytes=THREAD_BYTES)
        except _LargeFileError:
            return await self._in_thread(op)
        except OSError as error:
            raise explain(error, self._root, doing(op)) from error

    def path(self, key: str) -> Path | None:
        """Return the file that is this object, or None when absent. It is safe to map."""
        check_key(key)
        path = self._base + key
        return Path(path) if os.path.isfile(path) else None

    def _perform(self, op: Op, large_bytes: int | None = None) -> Any:  # noqa: PLR0911 - one each
        # The most frequent first: this is the hot path of a local cluster.
        match op:
            case Create():
                return self._create(op.key, op.body)
            case Get():
                return self._get(op, large_bytes)
            case Put():
                return self._put(op.key, op.body)
            case GetMany():
                return [self._get(Get(key, end=op.end), large_bytes) for key in op.keys]
            case List():
                check_prefix(op.prefix)
                return list(islice(walk(self._root, op.prefix, op.after), op.limit))
            case Delete():
                return self._delete(op.keys)
            case Head():
                return self._head(op.key)
            case Adopt():
                return self._adopt(op)
            case GetIfChanged():
                return self._get_if_changed(op)

    def _is_slow(self, op: Op) -> bool:
        match op:
            case Create() | Put():
                return self._durable or size_of(op.body) >= THREAD_BYTES
            case Adopt():
                check_file(op)
                return self._durable or os.stat(op.path).st_dev != self._device
        return False

    async def _in_thread(self, op: Op) -> Any:
        from cloudray.store.threads import in_thread

        return await in_thread(self.perform, op)

    def _create(self, key: str, body: Body) -> bool:
        check_key(key)
        path = self._base + key
        if self._durable and os.path.exists(path):
            return False  # without syncing a body that cannot win
        temp = self._write(body)
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            try:
                self._place(os.link, temp, key)
            except FileExistsError:
                return False
        finally:
            discard(temp)
        if self._durable:
            sync(os.path.dirname(path))
        return True

    def _put(self, key: str, body: Body) -> None:
        check_key(key)
        temp = self._write(body)
        try:
            self._replace(temp, key)
        except BaseException:
            discard(temp)
            raise

    def _adopt(self, op: Adopt) -> None:
        check_key(op.key)
        check_file(op)
        if self._durable:
            sync(op.path)
        try:
            self._replace(str(op.path), op.key)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            from shutil import copyfile  # three times what else this module imports

            temp = self._new_name()
            try:
                copyfile(op.path, temp)
                if self._durable:
                    sync(temp)
                self._replace(temp, op.key)
            except BaseException:
                discard(temp)
                raise
            os.unlink(op.path)

    def _get(self, op: Get, large_bytes: int | None) -> bytes | None:
        check_key(op.key)
        try:
            descriptor = os.open(self._base + op.key, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if op.start is None and op.end is None:
                data = os.read(descriptor, SMALL_BYTES)
                if len(data) < SMALL_BYTES:
                    return data
            start, end = range_of(op)
            if large_bytes is not None:
                size_bytes = os.fstat(descriptor).st_size
                if min(size_bytes, size_bytes if end is None else end) - start >= large_bytes:
                    raise _LargeFileError
            return read_range(descriptor, start, end)
        finally:
            os.close(descriptor)

    def _get_if_changed(self, op: GetIfChanged) -> Tagged | Unchanged | None:
        check_key(op.key)
        try:
            descriptor = os.open(self._base + op.key, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            # A file is replaced, never written again: this is the ETag of what is read here.
            etag = etag_of(os.fstat(descriptor))
            if etag == op.etag:
                return UNCHANGED
            return Tagged(read_range(descriptor, 0, op.end), etag)
        finally:
            os.close(descriptor)

    def _head(self, key: str) -> Entry | None:
        check_key(key)
        try:
            status = os.stat(self._base + key, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, status.st_size, etag_of(status), int(status.st_mtime))

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
            try:
                os.unlink(self._base + key)
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _write(self, body: Body) -> str:
        """Write a body to a file of its own and return that file's name."""
        temp = self._new_name()
        descriptor = os.open(temp, _NEW_FILE, 0o666)
        try:
            write_all(descriptor, body)
            if self._durable:
                os.fsync(descriptor)
        except BaseException:
            discard(temp)
            raise
        finally:
            os.close(descriptor)
        return temp

    def _new_name(self) -> str:
        return f"{self._temp_stem}.{_process.pid}.{next(self._serial)}"

    def _replace(self, source: str, key: str) -> None:
        """Move a file to a key, whatever is there."""
        path = self._base + key
        try:
            os.replace(source, path)
        except FileNotFoundError:
            self._place(os.replace, source, key)
        if self._durable:
            sync(os.path.dirname(path))

    def _place(self, move: Callable[[str, str], None], source: str, key: str) -> None:
        """Link or move a file to a key whose folder is missing."""
        for _ in range(_TRIES):
            try:
                self._make_folders(key)
                move(source, self._base + key)
            except FileNotFoundError:
                # Somebody removed the folder meanwhile, or the root, which ends it.
                os.stat(self._root)
            else:
                return
        # Or the unfinished file went, as happens to who sleeps for longer than ABANDONED_S.
        raise TransientStoreError(
            f"what is written to {key} in {self._root} is removed as fast as it is made"
        )

    def _make_folders(self, key: str) -> None:
        # Never the root: who removes that has ended the cluster.
        parent = self._root
        for part in key.split("/")[:-1]:
            folder = f"{parent}/{part}"
            with suppress(FileExistsError):
                os.mkdir(folder)
            if self._durable:
                sync(parent)
            parent = folder

    def _remove_abandoned(self) -> None:
        now_s = time.time()
        with os.scandir(self._temp_folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    continue  # the room of a `SpillingStore`
                with suppress(FileNotFoundError):
                    if now_s - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_S:
                        os.unlink(entry.path)
