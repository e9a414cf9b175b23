"""Listing a directory tree as object storage lists keys."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cloudray.store.base import Entry
from cloudray.store.keys import RESERVED


def walk(root: str, prefix: str, after: str) -> Iterator[Entry]:
    """Yield the files under `root` whose keys begin with `prefix` and sort after `after`.

    In the order of the keys as plain strings. Files that vanish meanwhile are left out. So may
    be, on tmpfs, a file that is replaced while its folder is read, once that has over a thousand.
    """
    folder, slash, start = prefix.rpartition("/")
    return _walk(root, folder + slash, start, after)


def etag_of(status: os.stat_result) -> str:
    """Name this version of a file: replacing it changes its inode, and time or size too."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _walk(root: str, folder: str, start: str, after: str) -> Iterator[Entry]:
    for name in _names(root, folder, start):
        key = folder + name
        if name.endswith("/"):
            # All keys under this folder begin with `key`, so they all sort before `after`
            # exactly when `key` does and `after` is not itself among them.
            if key > after or after.startswith(key):
                yield from _walk(root, key, "", after)
        elif key > after:
            try:
                status = os.lstat(f"{root}/{key}")
            except FileNotFoundError:
                continue
            yield Entry(key, status.st_size, etag_of(status), int(status.st_mtime))


def _names(root: str, folder: str, start: str) -> list[str]:
    # A folder sorts as its name with the slash that all its keys have. A set, because a file
    # that is replaced while its folder is read may be met twice.
    names: set[str] = set()
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                name = entry.name
                if not name.startswith(start):
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    names.add(name)
                elif folder or name != RESERVED:
                    names.add(name + "/")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(names)
