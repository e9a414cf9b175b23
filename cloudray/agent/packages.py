"""Code that tasks bring along: on this machine once, with a private copy where they may write."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cloudray.exceptions import RuntimeEnvSetupError
from cloudray.ids import ID_BYTES, batch_prefix
from cloudray.protocol.records import Code, Job, Package
from cloudray.store import envelope, layout
from cloudray.store.base import Entry, Get, Head, Store, StoreError
from cloudray.store.envelope import RecordError

if TYPE_CHECKING:
    from cloudray.code.shelf import Shelf

_NAME_BYTES = 4


class Furnished(msgspec.Struct, frozen=True):
    """What was made ready for one executor."""

    #: its working directory, which is its own; empty: the driver's, where there is one
    working_dir: str = ""
    #: where it looks for modules, before anything else
    path: tuple[str, ...] = ()
    #: archives that it uses
    digests: tuple[str, ...] = ()


NOTHING = Furnished()


class Packages:
    """Makes packages ready for executors.

    They are unpacked in `folder`, which has at most `limit_bytes` of what is not in use; `scratch`
    makes the folder for private copies. Both are made when they are needed.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        limit_bytes: int,
        scratch: Callable[[], Path],
        host: str | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._shelf: Shelf | None = None
        self._make_scratch = scratch
        self._scratch: Path | None = None
        self._host = socket.gethostname() if host is None else host

    async def furnish(self, code: Code, job: Job, days: int) -> Furnished:
        """Make code ready for an executor; `discard` is for when that has ended.

        Raises `RuntimeEnvSetupError`, which says what is wrong with which package.
        """
        digests: list[str] = []
        working_dir = ""
        try:
            path: list[str] = []
            if code.working_dir is not None:
                held = await self._hold(code.working_dir, job, days, digests)
                working_dir = await self._copy(held, code.working_dir)
                path.append(working_dir)
            elif is_elsewhere(job):
                # What its tasks write into their working directory is not for everybody here.
                working_dir = self._empty()
            wanted = [each for each in code.local if not self._sees(each, job)]
            for package in (*code.py_modules, *wanted):
                held = await self._hold(package, job, days, digests)
                path.append(str(held))
        except BaseException:
            await asyncio.shield(self.discard(Furnished(working_dir, (), tuple(digests))))
            raise
        return Furnished(working_dir, tuple(path), tuple(digests))

    async def discard(self, furnished: Furnished) -> None:
        """The executor has ended: remove what was its own, and let go of the rest."""
        if self._shelf is not None:
            for digest in furnished.digests:
                self._shelf.let_go(digest)
        if furnished.working_dir:
            await asyncio.to_thread(shutil.rmtree, furnished.working_dir, ignore_errors=True)

    def close(self) -> None:
        """Let go of everything. What is private to executors lies in the scratch folder."""
        if self._shelf is not None:
            self._shelf.close()

    async def _hold(self, package: Package, job: Job, days: int, digests: list[str]) -> Path:
        # Most agents never need what this loads.
        from cloudray.code.shelf import Shelf, UnfitError

        try:
            if self._shelf is None:
                self._shelf = Shelf(self._folder, self._limit_bytes)
            path = await self._shelf.hold(package.digest, lambda: self._read(package, job.id, days))
        except (StoreError, RecordError, UnfitError) as error:
            raise _failed(package, str(error), self._host) from None
        except OSError as error:
            why = f"there is no place for it in {self._folder}: {error}"
            raise _failed(package, why, self._host) from None
        digests.append(package.digest)
        return path

    async def _read(self, package: Package, job: bytes, days: int) -> memoryview:
        key = layout.blob(batch_prefix(days, job, bytes(ID_BYTES)), package.digest)
        entry: Entry | None = await self._store.perform_async(Head(key))
        expected_bytes = package.size_bytes + envelope.HEADER_BYTES
        if entry is not None and entry.size_bytes > expected_bytes:
            # Not even looked at: it could be larger than this machine's memory.
            msg = f"{key} has {entry.size_bytes} bytes, and {expected_bytes} were stored there"
            raise StoreError(msg)
        body: bytes | None = None if entry is None else await self._store.perform_async(Get(key))
        if body is None:
            msg = f"it is not in the store, at {key}: was its job deleted?"
            raise StoreError(msg)
        return envelope.open_sealed(envelope.Kind.BLOB, body, key)

    async def _copy(self, held: Path, package: Package) -> str:
        try:
            target = self._new_folder()
            await asyncio.to_thread(_copy, held, target)
        except (OSError, shutil.Error) as error:
            raise _failed(package, f"it could not be copied: {error}", self._host) from None
        return str(target)

    def _empty(self) -> str:
        try:
            folder = self._new_folder()
            folder.mkdir(mode=0o700)
        except OSError as error:
            msg = f"No working directory could be made on {self._host}: {error}."
            raise RuntimeEnvSetupError(msg) from None
        return str(folder)

    def _new_folder(self) -> Path:
        if self._scratch is None:
            self._scratch = self._make_scratch()
        return self._scratch / os.urandom(_NAME_BYTES).hex()

    def _sees(self, package: Package, job: Job) -> bool:
        """Whether this machine has the very files that a package was made of."""
        seen = package.seen
        if seen is None or job.host != self._host:
            return False
        with suppress(OSError):
            status = os.stat(seen.path)  # noqa: PTH116 - a text
            if (status.st_dev, status.st_ino) == (seen.device, seen.inode):
                return os.access(seen.path, os.R_OK | os.X_OK)
        return False


def is_elsewhere(job: Job) -> bool:
    """Whether the working directory of a job's driver is not on this machine."""
    return not os.path.isdir(job.cwd)  # noqa: PTH112 - a text


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _failed(package: Package, why: str, host: str) -> RuntimeEnvSetupError:
    return RuntimeEnvSetupError(f"{package.source} could not be made ready on {host}: {why}.")
