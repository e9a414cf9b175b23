# Raw calls, not pathlib: as in `directory`.
# ruff: noqa: PTH102, PTH104, PTH108, PTH116, PTH120
"""Room for the files of large values: in memory while there is some, else on disk.

Driver, agent and executors write files here, each under a name of its own, and whoever has
published a value moves its file into the store. The files in memory are counted, under a quota:

    new/<pid>-<n>-<bytes>     being written, or being removed; the bytes are counted already
    done/<pid>-<n>-<bytes>    finished, until it is adopted
    spare/<bytes>-<nonce>     of values that were let go, kept to be written again
    account                   how many bytes all of them have, with those that were adopted
    ballast                   a little space that is given up when not even a last word fits
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cloudray.interrupts import Shield
from cloudray.sizes import show_size
from cloudray.store.account import Account
from cloudray.store.base import Buffer, StoreFullError
from cloudray.store.bodies import views_of
from cloudray.store.drafts import is_alive, make, new_name, pid_in, scan, size_in, unwritten_bytes
from cloudray.store.files import FULL, discard, write_all
from cloudray.store.keys import RESERVED
from cloudray.store.layout import OBJECT_FOLDERS
from cloudray.store.space import Filesystem, kept_for_work, kept_in_memory, kept_on_disk
from cloudray.store.spares import SMALLEST_BYTES, Spares

#: Of the quota, so much may be files that are kept to be written again.
_SPARE_SHARE = 0.25
#: The last words of many batches: each takes a page.
_BALLAST_BYTES = 256 << 10
_BALLAST_SHARE = 0.02
#: Who is refused does not count more often, in seconds.
_RECOUNT_S = 1.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class RoomSpec(msgspec.Struct, frozen=True, array_like=True):
    """Where a room is, and how large: all that a process needs to share it."""

    #: folder for files under construction, and for the account; in shared memory where there is
    #: some
    memory: str
    #: folder on disk for files that find no room there; None: nothing is spilled
    disk: str | None = None
    #: how many bytes of values may lie in memory; None: as many as fit
    memory_bytes: int | None = None
    #: the root of the store that adopts the files; None: they leave the room when they do
    root: str | None = None


class Room:
    """A place for files, which several processes may share.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     room = Room(RoomSpec(folder, memory_bytes=1000, root=f"{folder}/store"))
    ...     path = room.write([b"two ", b"parts"])
    ...     path.read_bytes(), room.used_bytes()
    (b'two parts', 9)
    """

    def __init__(self, spec: RoomSpec) -> None:
        """Share the room at `spec`, making its own folders where they are missing.

        Raises OSError when they cannot be made, as where the cluster has ended.
        """
        self.spec = spec
        memory = spec.memory
        self._new = f"{memory}/new"
        self._done = f"{memory}/done"
        self._spare = f"{memory}/spare"
        self._ballast = f"{memory}/ballast"
        self._recounted_s = -_RECOUNT_S
        folders = [memory, self._new, self._done, self._spare]
        if spec.disk is not None:
            folders += [spec.disk, f"{spec.disk}/new", f"{spec.disk}/done"]
        for folder in folders:
            # Never what is around the room: who removes that has ended the cluster.
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        self._account = Account(f"{memory}/account")
        quota_bytes = Filesystem(memory).size_bytes // 2
        if spec.memory_bytes is not None:
            quota_bytes = spec.memory_bytes
        self._spares = Spares(self._spare, int(quota_bytes * _SPARE_SHARE))

    def prepare(self) -> None:
        """Take what there should be room for when there is none: once, when a store is opened."""
        if self._is_counted:
            with suppress(OSError):
                self._account.create()
            self._take_ballast()

    def write(self, parts: Sequence[Buffer]) -> Path:
        """Write a file of these parts, one after the other; returns its path.

        In memory if quota and filesystem allow it, else on disk. Raises `StoreFullError` when
        there is no room in either; nothing is left then.
        """
        views = views_of(parts)
        size_bytes = sum(view.nbytes for view in views)
        path = self._write_in_memory(views, size_bytes) or self._write_on_disk(views, size_bytes)
        if path is None and self._is_counted and self._may_recount():
            # The account may be too high.
            self.recount()
            path = self._write_in_memory(views, size_bytes)
        if path is None:
            full = StoreFullError(self._why_full(size_bytes))
            full.hopeless = size_bytes > self._capacity_bytes()
            raise full
        return Path(path)

    def _may_recount(self) -> bool:
        """Not each time: who is refused may ask again and again, and there may be many values."""
        now_s = time.monotonic()
        if now_s - self._recounted_s < _RECOUNT_S:
            return False
        self._recounted_s = now_s
        return True

    def release(self, path: Path) -> None:
        """The file at `path` is no longer wanted: give its bytes back. It may be gone already.

        Who has mapped it keeps what he sees. Keeps a large file that nobody uses, to write it
        again.
        """
        name = str(path)
        if not self._is_counted or self.is_on_disk(path):
            discard(name)
            return
        with Shield(), self._account as account:
            try:
                size_bytes = os.stat(name).st_size
                if size_bytes < SMALLEST_BYTES:
                    os.unlink(name)
                    account.change(used=-size_bytes)
                    kept, aside = True, ""
                else:
                    aside = self._name(size_bytes)
                    os.rename(name, aside)
                    kept = self._spares.take_in(aside, size_bytes, account)
            except (FileNotFoundError, NotADirectoryError):
                return
        if not kept:
            # Not under the lock: it takes a tenth of a second for each gigabyte.
            self._discard(aside, size_bytes)
        if not os.access(self._ballast, os.F_OK):
            self._take_ballast()

    def used_bytes(self) -> int:
        """Bytes of values in memory: stored, finished, or being written."""
        if not self._is_counted:
            return self._counts()[0]
        with Shield(), self._account as account:
            return account.used

    def spare_bytes(self) -> int:
        """Bytes of files that are kept to be written again; they are given up first."""
        with Shield(), self._account as account:
            return account.spare

    def count(self, change_bytes: int) -> None:
        """Values of so many bytes came into the store, or went, without `write` and `release`."""
        if self._is_counted:
            with Shield(), self._account as account:
                account.change(used=change_bytes)

    def recount(self) -> None:
        """Make the account exact again after a process was killed."""
        if self._is_counted:
            with Shield(), self._account as account:
                account.set(*self._counts())

    def sweep(self, pid: int, *, finished: bool = False) -> None:
        """Remove what a process that has ended was writing.

        `finished`: also the files that it finished and that nobody will adopt any more.
        """
        folders = ("new", "done") if finished else ("new",)
        for entry in self._drafts(folders):
            if pid_in(entry.name) == pid:
                counted = not self.is_on_disk(Path(entry.path))
                self._discard(entry.path, size_in(entry.name) if counted else 0)

    def sweep_dead(self) -> None:
        """Remove what processes were writing that have ended, however long ago."""
        owners = {pid_in(entry.name) for entry in self._drafts(("new", "done"))}
        for pid in owners:
            if not is_alive(pid):
                self.sweep(pid, finished=True)

    def _drafts(self, folders: Sequence[str]) -> list[os.DirEntry[str]]:
        bases = [base for base in (self.spec.memory, self.spec.disk) if base is not None]
        return [entry for base in bases for folder in folders for entry in scan(f"{base}/{folder}")]

    def make_way(self, *, vital: bool) -> bool:
        """Free some memory for what cannot lie on disk; False when nothing is left to give up.

        `vital`: it is small, and nothing goes on without it.
        """
        if self._is_counted:
            with Shield(), self._account as account:
                if self._spares.give_up(1, account):
                    return True
        if vital:
            with suppress(FileNotFoundError):
                os.unlink(self._ballast)
                return True
        return False

    def lacks(self, part: float) -> str:
        """Why this part of the memory that is kept from values must be left alone; else empty."""
        filesystem = Filesystem(self.spec.memory)
        kept = kept_for_work(filesystem, part)
        if filesystem.free_bytes >= kept:
            return ""
        return (
            f"only {show_size(filesystem.free_bytes)} are free in {self.spec.memory}, and "
            f"{show_size(kept)} of it are kept for what is under way"
        )

    def submissions_ahead(self) -> int:
        """How many batches may be submitted before it is worth looking again."""
        free_bytes = Filesystem(self.spec.memory).free_bytes
        return min(1000, free_bytes // (8 << 20))

    def is_own(self, path: Path) -> bool:
        """Whether a file lies here, finished."""
        folder = os.path.dirname(path)
        return folder in {self._done, f"{self.spec.disk}/done"}

    def is_on_disk(self, path: Path) -> bool:
        """Whether a file lies neither in the room in memory nor in the store around that."""
        spec = self.spec
        return not str(path).startswith((f"{spec.memory}/", f"{spec.root or spec.memory}/"))

    @property
    def _is_counted(self) -> bool:
        return self.spec.root is not None

    def _name(self, size_bytes: int, base: str | None = None) -> str:
        return f"{base or self._new}/{new_name(size_bytes)}"

    # -- in memory ---------------------------------------------------------------------------

    def _write_in_memory(self, views: list[memoryview], size_bytes: int) -> str | None:
        path = self._name(size_bytes)
        if not self._reserve(path, size_bytes):
            return None
        return self._fill(path, self._done, views, size_bytes)

    def _reserve(self, path: str, size_bytes: int) -> bool:
        """Count the bytes and make the file, or say that there is no room."""
        if not self._is_counted:
            return self._free_memory_bytes() >= size_bytes and make(path)
        with Shield(), self._account as account:
            spare_bytes, spare = self._spares.fitting(size_bytes) or (0, "")
            lacking = self._lacking_bytes(size_bytes - spare_bytes, account)
            if lacking > 0 and self._spares.give_up(lacking, account, keep=spare) < lacking:
                return False
            account.change(used=size_bytes)
            if spare:
                # Whoever renames it has it; here the lock sees to that already.
                os.rename(spare, path)
                account.change(spare=-spare_bytes)
            elif not make(path):
                account.change(used=-size_bytes)
                return False
        return True

    def _lacking_bytes(self, more_bytes: int, account: Account) -> int:
        """How many bytes must be given up before so many more fit."""
        lacking = more_bytes - self._free_memory_bytes()
        if self.spec.memory_bytes is not None:
            used_bytes = account.used + account.spare
            lacking = max(lacking, used_bytes + more_bytes - self.spec.memory_bytes)
        return lacking

    def _free_memory_bytes(self) -> int:
        filesystem = Filesystem(self.spec.memory)
        return filesystem.free_bytes - kept_in_memory(filesystem) - unwritten_bytes(self._new)

    def _counts(self) -> tuple[int, int]:
        """Bytes of values, and of spare files: looked up, not remembered.

        Files move meanwhile, from a folder to one that is looked at later: so each is met, and
        its inode tells whether it is met twice.
        """
        sizes: dict[int, int] = {}
        for folder in (self._new, self._done):
            for entry in scan(folder):
                sizes[entry.inode()] = size_in(entry.name)
        if self.spec.root is not None:
            for found in Path(self.spec.root).glob(OBJECT_FOLDERS):
                for entry in scan(str(found)):
                    with suppress(FileNotFoundError):
                        sizes[entry.inode()] = entry.stat(follow_symlinks=False).st_size
        return sum(sizes.values()), sum(size_bytes for size_bytes, _ in self._spares.found())

    def _take_ballast(self) -> None:
        filesystem = Filesystem(self.spec.memory)
        size_bytes = int(min(_BALLAST_BYTES, filesystem.size_bytes * _BALLAST_SHARE))
        if filesystem.free_bytes < 4 * size_bytes:
            return
        with suppress(OSError):
            descriptor = os.open(self._ballast, _NEW_FILE, 0o600)
            try:
                write_all(descriptor, bytes(size_bytes))
            finally:
                os.close(descriptor)

    # -- on disk -----------------------------------------------------------------------------

    def _write_on_disk(self, views: list[memoryview], size_bytes: int) -> str | None:
        disk = self.spec.disk
        if disk is None or self._free_disk_bytes(disk) < size_bytes:
            return None
        path = self._name(size_bytes, f"{disk}/new")
        if not make(path):
            return None
        return self._fill(path, f"{disk}/done", views, 0)

    def _free_disk_bytes(self, disk: str) -> int:
        filesystem = Filesystem(disk)
        return filesystem.free_bytes - kept_on_disk(filesystem) - unwritten_bytes(f"{disk}/new")

    # -- in both -----------------------------------------------------------------------------

    def _fill(
        self, path: str, folder: str, views: list[memoryview], counted_bytes: int
    ) -> str | None:
        """Write a file that has been made, and move it; None when there is no room after all."""
        finished = f"{folder}/{path.rpartition('/')[2]}"
        try:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                write_all(descriptor, views)
                size_bytes = sum(view.nbytes for view in views)
                if os.fstat(descriptor).st_size > size_bytes:
                    os.ftruncate(descriptor, size_bytes)
            finally:
                os.close(descriptor)
            os.rename(path, finished)
        except BaseException as error:
            self._discard(path, counted_bytes)
            if isinstance(error, OSError) and error.errno in FULL:
                return None
            raise
        return finished

    def _discard(self, path: str, counted_bytes: int) -> None:
        discard(path)
        if counted_bytes:
            self.count(-counted_bytes)

    def _capacity_bytes(self) -> int:
        """The largest value that there is room for when there is no other."""
        filesystem = Filesystem(self.spec.memory)
        largest = filesystem.size_bytes - kept_in_memory(filesystem)
        if self.spec.memory_bytes is not None:
            largest = min(largest, self.spec.memory_bytes)
        if self.spec.disk is not None:
            filesystem = Filesystem(self.spec.disk)
            largest = max(largest, filesystem.size_bytes - kept_on_disk(filesystem))
        return largest

    def _why_full(self, size_bytes: int) -> str:
        spec = self.spec
        free_bytes = max(0, self._free_memory_bytes())
        memory = f"{show_size(free_bytes)} free for values in {spec.memory}"
        if spec.memory_bytes is not None:
            memory = (
                f"{show_size(self.used_bytes())} used of the {show_size(spec.memory_bytes)} that "
                f"values may take, {memory}"
            )
        disk = "nothing may be spilled to disk"
        if spec.disk is not None:
            free_bytes = max(0, self._free_disk_bytes(spec.disk))
            disk = f"on disk {show_size(free_bytes)} are free for values in {spec.disk}"
        return (
            f"There is no room for a value of {show_size(size_bytes)}. In memory there are "
            f"{memory}; {disk}. Let go of refs that are no longer needed (del ref), give values "
            "more memory with init(object_store_memory=...), or name a folder on a larger disk "
            "with init(object_spilling_directory=...)."
        )


def room_in(root: str) -> str:
    """The folder of the room that belongs to the store at `root`."""
    return f"{root}/{RESERVED}/room"
