"""Where in memory values are, as the process sees it that asks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple


class Mapping(NamedTuple):
    """A mapping of a process, and the file behind it."""

    pid: int
    #: device and number
    inode: tuple[str, int]
    #: as `/proc` writes them: ``r--s`` is read-only and shared
    permissions: str
    #: empty for memory that is no file's
    file: str


def mapping_at(address: int) -> Mapping:
    """The mapping that an address lies in."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        extent, permissions, _, device, inode, *file = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in extent.split("-"))
        if start <= address < end:
            path = "".join(file).removesuffix(" (deleted)")
            return Mapping(os.getpid(), (device, int(inode)), permissions, path)
    raise AssertionError(f"{address:#x} is in no mapping")


def mapping_of(array: Any) -> Mapping:
    """The mapping that a NumPy array lies in."""
    return mapping_at(array.__array_interface__["data"][0])
