"""Folders that go with the processes that use them, however those end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_LOCK = "lock"


class PrivateFolder:
    """A folder only this user can enter, locked while any process that uses it lives.

    The lock belongs to the open file, so a child that inherits the descriptor holds it too. The
    next process that makes a folder beside it removes those that nobody holds any more.
    """

    def __init__(self, base: Path, prefix: str) -> None:
        sweep(base, prefix)
        name = f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
        # It is locked before it bears a name that others sweep.
        hidden = base / f".{name}"
        hidden.mkdir(mode=0o700)
        #: to be passed on to children that use the folder
        self.lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = hidden.rename(base / name)

    def remove(self) -> None:
        """Remove the folder and all that is in it. Idempotent."""
        import shutil  # when a process ends, so that it starts sooner

        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def sweep(base: Path, prefix: str) -> None:
    """Remove folders whose processes were all killed."""
    for folder in base.glob(f"{prefix}*"):
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            # Not one of ours, or being made or removed right now.
            continue
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
