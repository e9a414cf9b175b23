"""Folders that go with the processes that use them, however those end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from cloudray.platform import lock_file

_LOCK = "lock"
#: Longer than anybody takes to make a folder and lock it, even on a busy machine.
_MAKING_S = 60.0


class PrivateFolder:
    """A folder only this user can enter, locked while any process that uses it lives.

    The lock belongs to the open file, so a child that inherits the descriptor holds it too. The
    next process that makes a folder beside it removes those that nobody holds any more.
    """

    def __init__(self, base: Path, prefix: str) -> None:
        sweep(base, prefix)
        name = f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
        # It is locked before it bears a name that others sweep.
        self.path = hidden = base / f".{name}"
        #: to be passed on to children that use the folder
        self.lock = -1
        try:
            hidden.mkdir(mode=0o700)
            self.lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            lock_file(self.lock)
            self.path = hidden.rename(base / name)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the folder and all that is in it. Idempotent."""
        remove(self.path)
        self.forget()

    def forget(self) -> None:
        """Let go of the folder, which others may still use. Idempotent."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def own_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, unless it is there.

    Raises `PermissionError` when somebody else made it, or can enter it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder} is not this user's alone, so whoever else can enter it could run code as "
            "this user. Remove it, or set XDG_CACHE_HOME to a private folder."
        )
    return folder


def remove(folder: Path) -> None:
    """Remove a folder and all that is in it, if it is there.

    Its lock goes last: when this is cut short, the rest can be swept.
    """
    import shutil  # when a process ends, so that it starts sooner

    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path, prefix: str) -> None:
    """Remove folders whose processes were all killed."""
    for folder in base.glob(f"{prefix}*"):
        _remove_if_free(folder)
    # One that was killed while it made its folder left it without its name.
    oldest_s = time.time() - _MAKING_S
    for folder in base.glob(f".{prefix}*"):
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime < oldest_s:
                # If it had no time to make its lock, there is nobody who could hold one.
                _remove_if_free(folder, without_lock=True)


def _remove_if_free(folder: Path, *, without_lock: bool = False) -> None:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        # Not one of ours, or being made or removed right now.
        if without_lock:
            remove(folder)
        return
    except OSError:
        return
    try:
        if lock_file(descriptor):
            remove(folder)
    finally:
        os.close(descriptor)
