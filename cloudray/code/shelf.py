"""Unpacked archives of one machine, shared by all agents of a user on it.

    <digest>/        the unpacked archive; nothing in it is changed any more
    <digest>.lock    shared by whoever uses it, held alone by whoever makes or removes it
    .<digest>-…      being unpacked, or being removed

A folder gets its name when it is whole, so who finds one may use it. Locks belong to open files:
those of a process that is killed are free at once, and what it left half done is swept by the next.
Whoever waits for a lock waits for one that downloads the very same.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cloudray import platform
from cloudray.code.archives import UNPACKED_S, UnsafeArchiveError, unpack
from cloudray.folders import own_folder

_DIGEST = re.compile("[0-9a-f]{64}")
_LOCK = ".lock"
_POLL_S = 0.05
_PYCACHE = "__pycache__"


class UnfitError(Exception):
    """An archive that cannot be used here: the message says why."""


class Shelf:
    """The folder, bounded by `limit_bytes` of unpacked files.

    What is in use may go beyond that. Used by the event loop of one agent. Raises PermissionError
    for a folder in which others may write.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = own_folder(folder)
        self.limit_bytes = limit_bytes
        #: descriptors of locks that this process shares, and how often
        self._held: dict[str, tuple[int, int]] = {}
        #: one at a time looks after each digest here
        self._busy: dict[str, asyncio.Lock] = {}
        self._sweep()

    async def hold(self, digest: str, read: Callable[[], Awaitable[bytes | memoryview]]) -> Path:
        """The unpacked archive, which stays until it is let go; `read` gets it if it is not here.

        Raises `UnfitError`, OSError, and whatever `read` raises.
        """
        if _DIGEST.fullmatch(digest) is None:
            # It is a name of files here.
            raise UnfitError(f"{digest!r} is not the name of an archive")
        lock = self._busy.setdefault(digest, asyncio.Lock())
        async with lock:
            held = self._held.get(digest)
            if held is not None:
                self._held[digest] = (held[0], held[1] + 1)
                return self.folder / digest
            # Another process has the lock.
            while (descriptor := await self._find_or_make(digest, read)) is None:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            self._held[digest] = (descriptor, 1)
        await asyncio.to_thread(self.trim)
        return self.folder / digest

    async def _find_or_make(
        self, digest: str, read: Callable[[], Awaitable[bytes | memoryview]]
    ) -> int | None:
        """The descriptor of a shared lock on what is there; None when others were in the way."""
        path, lock = self.folder / digest, self.folder / f"{digest}{_LOCK}"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        kept = False
        try:
            alone = platform.lock_file(descriptor)
            if not alone and not platform.share_lock(descriptor):
                return None
            if not _is_same(lock, descriptor):
                return None
            if not await asyncio.to_thread(is_intact, path, descriptor):
                if not alone and not _is_whole(path, descriptor):
                    return None
                if not alone:
                    raise UnfitError(
                        f"the copy in {path} was changed, and others on this machine use it: it is "
                        "made anew when they have ended. Tasks must not write there"
                    )
                os.ftruncate(descriptor, 0)
                await asyncio.to_thread(_remove, path)
                body = await read()
                size_bytes = await asyncio.to_thread(self._unpack, digest, body, path)
                _note_size(descriptor, size_bytes)
            os.utime(descriptor)
            # Between the two locks there is a moment without any, in which it may go.
            if alone and not (platform.share_lock(descriptor) and _is_whole(path, descriptor)):
                return None
            if not _is_same(lock, descriptor):
                return None
            kept = True
            return descriptor
        finally:
            if not kept:
                os.close(descriptor)

    def let_go(self, digest: str) -> None:
        """One that held it needs it no more."""
        descriptor, count = self._held[digest]
        if count > 1:
            self._held[digest] = (descriptor, count - 1)
        else:
            del self._held[digest]
            os.close(descriptor)

    def close(self) -> None:
        """Let go of everything."""
        while self._held:
            _, (descriptor, _) = self._held.popitem()
            os.close(descriptor)

    # -- making ------------------------------------------------------------------------------

    def _unpack(self, digest: str, body: bytes | memoryview, path: Path) -> int:
        if hashlib.sha256(body).hexdigest() != digest:
            msg = f"its content is not that of {digest}"
            raise UnfitError(msg)
        draft = self.folder / f".{digest}-{os.getpid()}-{os.urandom(4).hex()}"
        draft.mkdir(mode=0o700)
        try:
            size_bytes = unpack(body, draft, max_bytes=self.limit_bytes)
            draft.rename(path)
        except UnsafeArchiveError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise UnfitError(f"its archive is refused: {error}") from None
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return size_bytes

    # -- letting go --------------------------------------------------------------------------

    def trim(self) -> None:
        """Remove the least recently used that nobody uses, until what is here is within bounds."""
        locks = []
        for lock in self.folder.glob(f"*{_LOCK}"):
            with suppress(FileNotFoundError):
                locks.append((lock.stat().st_mtime_ns, lock))
        sizes = {lock: _size_noted(lock) for _, lock in locks}
        total = sum(sizes.values())
        for _, lock in sorted(locks):
            if total <= self.limit_bytes:
                break
            if lock.name.removesuffix(_LOCK) not in self._held and self._evict(lock):
                total -= sizes[lock]

    def _sweep(self) -> None:
        """Remove what processes left half done that are no more: nobody has its lock."""
        for path in self.folder.glob(".*-*"):
            digest = path.name[1:].partition("-")[0]
            descriptor = os.open(self.folder / f"{digest}{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if platform.lock_file(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)

    def _evict(self, lock: Path) -> bool:
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            if not platform.lock_file(descriptor) or not _is_same(lock, descriptor):
                return False
            _remove(lock.with_suffix(""))
            # Whoever opened it meanwhile sees that it is not the file of that name any more.
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        return True


def _is_same(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _note_size(descriptor: int, size_bytes: int) -> None:
    text = str(size_bytes).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _size_noted(lock: Path) -> int:
    try:
        return int(lock.read_bytes() or b"0")
    except (OSError, ValueError):
        return 0


def _is_whole(path: Path, descriptor: int) -> bool:
    return path.is_dir() and os.fstat(descriptor).st_size > 0


def is_intact(path: Path, descriptor: int) -> bool:
    """Whether an unpacked archive is as it was when it was unpacked, as far as sizes and times say.

    A task may write where it should not; the next one to use the archive gets a fresh copy.
    """
    if not _is_whole(path, descriptor):
        return False
    expected = int(os.pread(descriptor, 32, 0) or b"0")
    total = 0
    for status in _files(path):
        if int(status.st_mtime) != UNPACKED_S:
            return False
        total += status.st_size
    return total == expected


def _files(folder: Path) -> Iterator[os.stat_result]:
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != _PYCACHE:
                yield from _files(Path(entry.path))
        else:
            yield entry.stat(follow_symlinks=False)


def _remove(path: Path) -> None:
    # It loses its name at once: nobody finds it half removed.
    doomed = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    with suppress(FileNotFoundError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
