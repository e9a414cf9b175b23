"""Archives that were made before: a folder that has not changed is not packed again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cloudray.code.archives import Archive
from cloudray.code.walking import Found, fingerprint

#: Smaller ones are made as quickly as they are read.
_WORTHWHILE_BYTES = 1 << 20
#: What was changed so shortly before it was packed may change again at the same time of its
#: filesystem's clock, unseen.
_SETTLED_S = 2.0
_FORMAT = b"1"


class _Stored(msgspec.Struct, frozen=True):
    digest: str
    sizes: dict[str, int]
    body: bytes


class Kept:
    """A folder with archives, the least recently used of which go when there are too many."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def get(
        self,
        found: Sequence[Found],
        under: str,
        folders: Sequence[str],
        make: Callable[[], Archive],
    ) -> Archive:
        """The archive of these files, read or made. What cannot be kept is made each time."""
        if sum(one.status.st_size for one in found) < _WORTHWHILE_BYTES:
            return make()
        facts = (under, sorted(folders), list(fingerprint(found)))
        name = hashlib.sha256(_FORMAT + msgspec.msgpack.encode(facts)).hexdigest()
        path = self._folder / f"{name}.archive"
        archive = self._read(path)
        if archive is not None:
            return archive
        newest_s = max(max(one.status.st_ctime, one.status.st_mtime) for one in found)
        settled = newest_s < time.time() - _SETTLED_S
        archive = make()
        if settled:
            with suppress(OSError):
                self._write(path, archive)
        return archive

    def _read(self, path: Path) -> Archive | None:
        try:
            stored = msgspec.msgpack.decode(path.read_bytes(), type=_Stored)
            os.utime(path)
        except (OSError, msgspec.MsgspecError):
            return None
        if hashlib.sha256(stored.body).hexdigest() != stored.digest:
            return None
        return Archive(stored.digest, stored.body, stored.sizes)

    def _write(self, path: Path, archive: Archive) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stored = _Stored(archive.digest, dict(archive.sizes), archive.body)
        draft = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            draft.write_bytes(msgspec.msgpack.encode(stored))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        self._trim()

    def _trim(self) -> None:
        known = []
        for path in self._folder.glob("*.archive"):
            with suppress(FileNotFoundError):
                known.append((path.stat(), path))
        known.sort(key=lambda pair: -pair[0].st_mtime)
        total = 0
        for status, path in known:
            total += status.st_size
            if total > self._limit_bytes:
                path.unlink(missing_ok=True)
