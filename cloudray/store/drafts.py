"""Files that a process has written, or is writing, under names that say whose they are.

A name is `<pid>-<n>-<bytes>`: so that what a process leaves behind when it is killed can be found,
and how much room was promised to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from cloudray.store.files import FULL

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
#: In which `stat` counts.
_BLOCK_BYTES = 512
#: Numbers the files of this process.
_serial = count()


def new_name(size_bytes: int) -> str:
    """A name that no other file of this process has.

    >>> size_in(new_name(1000)), pid_in(new_name(1000)) == os.getpid()
    (1000, True)
    """
    return f"{os.getpid()}-{next(_serial)}-{size_bytes}"


def size_in(name: str) -> int:
    """How many bytes the file of this name has, or is to have."""
    return int(name.rpartition("-")[2])


def pid_in(name: str) -> int:
    """The process whose file it is."""
    return int(name.partition("-")[0])


def make(path: str) -> bool:
    """Make an empty file; False when there is no room for even that."""
    try:
        os.close(os.open(path, _NEW_FILE, 0o600))
    except OSError as error:
        if error.errno in FULL:
            return False
        raise
    return True


def scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """The files in a folder, which may be missing."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from entries


def unwritten_bytes(folder: str) -> int:
    """What has been promised to the files in a folder, and is still free."""
    unwritten = 0
    for entry in scan(folder):
        with suppress(FileNotFoundError):
            taken_bytes = entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
            unwritten += max(0, size_in(entry.name) - taken_bytes)
    return unwritten


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
