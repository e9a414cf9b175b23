"""Reading and writing whole files through descriptors, as a directory store needs it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from cloudray.store.base import Body, StoreError, StoreFullError, TransientStoreError
from cloudray.store.bodies import views_of

#: Files up to this size are read by one call, without asking their size first.
SMALL_BYTES = 64 << 10
#: How many buffers one writev takes, on Linux as on macOS.
_IOV_MAX = 1024
#: How many of the names in a strange directory a message tells.
_NAMES_SHOWN = 3
#: The kernel moves at most this much in one call.
_CALL_BYTES = 0x7FFF_F000
#: What the kernel says when there is no room.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_PASSING = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
_UNLINKABLE = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


def write_all(descriptor: int, body: Body) -> None:
    """Write a body, however often the kernel stops short."""
    if isinstance(body, bytes):
        written = os.write(descriptor, body)
        if written == len(body):
            return
        views = [memoryview(body)[written:]]
    else:
        views = views_of(body)
    first = 0
    while first < len(views):
        written = os.writev(descriptor, views[first : first + _IOV_MAX])
        while first < len(views) and written >= views[first].nbytes:
            written -= views[first].nbytes
            first += 1
        if written:
            views[first] = views[first][written:]


def read_range(descriptor: int, start: int, end: int | None) -> bytes:
    """Read bytes `[start, end)` of a file, clipped to what it has."""
    size_bytes = os.fstat(descriptor).st_size
    end = size_bytes if end is None else min(end, size_bytes)
    chunks: list[bytes] = []
    while start < end:
        chunk = os.pread(descriptor, min(end - start, _CALL_BYTES), start)
        if not chunk:
            break
        chunks.append(chunk)
        start += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def sync(path: str | Path) -> None:
    """Make a file, or the names in a folder, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - on the hot path


def explain_opening(error: OSError, root: str) -> StoreError:
    """Say why there can be no store at `root`, and what to do."""
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return explain(error, root, "opening the store")
    parent = Path(root).parent
    if error.errno == errno.ENOENT and not parent.exists():
        return StoreError(f"there is no directory {parent}: make it, or mend the address.")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StoreError(f"{root} is no directory ({reason}): name one, or a new one.")
    return StoreError(f"{root} cannot be used ({reason}): name a directory that you may write.")


def something_else(root: str, names: list[str]) -> StoreError:
    """The refusal of a directory in which these names were found, and no store."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return StoreError(
        f"{root} holds something else: {', '.join(names[:_NAMES_SHOWN])}{more}. Name an empty "
        "directory, or one that does not exist yet."
    )


def explain(error: OSError, root: str, doing: str) -> StoreError:
    """Say what a failed system call means for the store at `root`, and what to do."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return StoreFullError(
            f"no space left in {root} while {doing} ({reason}). Free some space there, or use "
            f"a larger directory."
        )
    if error.errno in _PASSING:
        return TransientStoreError(f"{doing} in {root} failed: {reason}")
    # Of what a store does, only link() and rename() name two files.
    if error.errno in _UNLINKABLE and error.filename2 and doing.startswith("creating"):
        return StoreError(
            f"{doing} in {root} failed ({reason}): its filesystem has no hard links. Use a "
            f"directory on one that has (ext4, XFS, Btrfs, tmpfs, NFS), or object storage."
        )
    if error.errno in {errno.EISDIR, errno.ENOTDIR}:
        return StoreError(
            f"{doing} in {root} failed ({reason}): a key cannot be another key's folder."
        )
    if error.errno == errno.ENOENT:
        return StoreError(
            f"{doing} in {root} failed: the directory is gone. Its cluster has ended, or somebody "
            f"removed it."
        )
    return StoreError(f"{doing} in {root} failed: {reason}. Check that {root} is ours to write.")
