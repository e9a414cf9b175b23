"""Files of values that nobody wants any more, kept to be written again.

Writing to the pages that a file has takes half the time of writing to fresh ones, which the kernel
must find and clear first. A spare file bears its size in its name, and a name of its own each
time, so that a listing tells everything and whoever renames it first has it.

Nobody sees a value change under him: a file becomes spare only when the kernel says that no other
process has it open or maps it, and at that time it has a name that nobody looks for, so nobody can
open it any more either. One that is in use is unlinked instead, and lives as long as its users do.
"""

from __future__ import annotations

import os

from cloudray import platform
from cloudray.store.account import Account
from cloudray.store.files import discard

#: Smaller files are not worth keeping.
SMALLEST_BYTES = 1 << 20
#: More are not kept, however small they are.
MOST = 64
#: A file may be so many times as large as what is written to it.
_SURPLUS = 2


class Spares:
    """The spare files of one folder; all methods want the account locked."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Keep at most so many bytes."""
        self._folder = folder
        self._limit_bytes = limit_bytes

    def found(self) -> list[tuple[int, str]]:
        """Size and path of each, the smallest first."""
        with os.scandir(self._folder) as entries:
            return sorted((int(entry.name.partition("-")[0]), entry.path) for entry in entries)

    def fitting(self, size_bytes: int) -> tuple[int, str] | None:
        """The one to write so many bytes to: the smallest that has room, else the largest."""
        if size_bytes < SMALLEST_BYTES:
            return None
        smaller = None
        for spare in self.found():
            if spare[0] >= size_bytes:
                return spare if spare[0] <= _SURPLUS * size_bytes else smaller
            smaller = spare
        return smaller

    def take_in(self, path: str, size_bytes: int, account: Account) -> bool:
        """Keep a file that has a name nobody looks for; False when it should be unlinked."""
        if size_bytes > self._limit_bytes:
            return False
        if _is_used(path):
            return False
        # What was let go last is what will be wanted next.
        known = self.found()
        while known and (len(known) >= MOST or account.spare + size_bytes > self._limit_bytes):
            self._give_up(known.pop(0), account)
        account.change(spare=size_bytes)
        os.rename(path, f"{self._folder}/{size_bytes}-{os.urandom(6).hex()}")  # noqa: PTH104
        account.change(used=-size_bytes)
        return True

    def give_up(self, wanted_bytes: int, account: Account, keep: str = "") -> int:
        """Unlink spare files, but for `keep`, until so many bytes are free; returns how many."""
        freed_bytes = 0
        for spare in self.found():
            if freed_bytes >= wanted_bytes:
                break
            if spare[1] != keep:
                self._give_up(spare, account)
                freed_bytes += spare[0]
        return freed_bytes

    def _give_up(self, spare: tuple[int, str], account: Account) -> None:
        size_bytes, path = spare
        discard(path)
        account.change(spare=-size_bytes)


def _is_used(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        # This process has as many files open as it may.
        return True
    try:
        return platform.is_used_by_others(descriptor)
    finally:
        os.close(descriptor)
