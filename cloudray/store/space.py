"""How much space a filesystem has, and how much of it is kept free for whom."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Of the machine's memory, values may take so much by default; as Ray has it.
QUOTA_SHARE = 0.3
#: Of a filesystem in memory this part is kept free of values, for what cannot go to disk (batches,
#: journals): more of a small one, where that is what fills it.
_KEPT_SHARE, _KEPT_SHARE_OF_SMALL, _KEPT_AT_MOST_OF_SMALL = 0.05, 0.25, 64 << 20
#: Of what is kept, so much is kept from new work, and from records that are large; at most so much.
NEW_WORK, LARGE_RECORDS = 0.25, 0.125
_KEPT_FROM_WORK_AT_MOST = 64 << 20
#: Of a disk, this part but no more than so much is left to others.
_DISK_KEPT_SHARE, _DISK_KEPT_AT_MOST = 0.05, 1 << 30


class Filesystem:
    """Size and free space of the filesystem that a folder lies on, in bytes."""

    def __init__(self, folder: str) -> None:
        found = os.statvfs(folder)
        self.size_bytes = found.f_blocks * found.f_frsize
        self.free_bytes = found.f_bavail * found.f_frsize
        if not found.f_blocks:
            # A tmpfs without limit.
            self.size_bytes = self.free_bytes = sys.maxsize


def kept_in_memory(filesystem: Filesystem) -> int:
    """How many bytes of a filesystem in memory values leave free."""
    size_bytes = filesystem.size_bytes
    if size_bytes == sys.maxsize:
        return 0
    small = min(size_bytes * _KEPT_SHARE_OF_SMALL, _KEPT_AT_MOST_OF_SMALL)
    return int(max(size_bytes * _KEPT_SHARE, small))


def kept_for_work(filesystem: Filesystem, part: float) -> int:
    """How many of these are left free by new work (`NEW_WORK`), and by `LARGE_RECORDS`."""
    return int(min(kept_in_memory(filesystem) * part, _KEPT_FROM_WORK_AT_MOST))


def kept_on_disk(filesystem: Filesystem) -> int:
    """How many bytes of a disk values leave free."""
    return int(min(filesystem.size_bytes * _DISK_KEPT_SHARE, _DISK_KEPT_AT_MOST))


def default_quota_bytes(folder: Path, memory_bytes: int) -> int:
    """How many bytes of values to keep in memory: a share of it, and no more than fits there."""
    filesystem = Filesystem(str(folder))
    free_bytes = filesystem.free_bytes - kept_in_memory(filesystem)
    return max(0, min(int(memory_bytes * QUOTA_SHARE), free_bytes))
