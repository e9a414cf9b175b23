"""The code that goes along with a driver's calls: what was asked for, and what it has imported."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cloudray.protocol.records import Code, Package, Seen

if TYPE_CHECKING:
    from cloudray.code.modules import Local, Scout
    from cloudray.code.packer import Packer
    from cloudray.code.wishes import Wishes

_NOTHING = Code()
#: What code may have when it is packed, unless the user says otherwise.
MAX_CODE_BYTES = 100_000_000


class Luggage:
    """Packs and stores code for one job, each piece of it once.

    What is at a path when it is first needed is what the tasks of the job get until its end; the
    next `init` looks again. `automatic`: unless a function has a `working_dir`, the local code
    that this process has imported goes along. `upload` stores an archive under its digest.
    """

    def __init__(
        self,
        upload: Callable[[str, bytes], None],
        *,
        automatic: bool = False,
        limit_bytes: int = MAX_CODE_BYTES,
        cluster: str = "",
    ) -> None:
        self.automatic = automatic
        self._upload = upload
        self._limit_bytes = limit_bytes
        self._cluster = cluster
        # Taken again by a signal handler that submits.
        self._lock = threading.RLock()
        self._packer: Packer | None = None
        self._scout: Scout | None = None
        #: by the patterns that it leaves out, what has been found and packed so far
        self._local: dict[tuple[str, ...], tuple[Package, ...]] = {}
        self._found: list[Local] = []

    def code_of(self, wishes: Wishes) -> Code:
        """The code that goes along with calls of a function.

        Raises ValueError for what cannot be had or is too large, OSError for files that cannot be
        read, and what `upload` raises.
        """
        if not wishes and not self.automatic:
            return _NOTHING
        with self._lock:
            code = self._open().pack(wishes)
            if self.automatic and code.working_dir is None:
                code = msgspec.structs.replace(code, local=self._look(wishes.excludes or ()))
            return code

    def _look(self, excludes: tuple[str, ...]) -> tuple[Package, ...]:
        """The local code there is by now."""
        if self._scout is None:
            from cloudray.code.modules import Scout

            self._scout = Scout()
        self._found += self._scout.look()
        packages = self._local.get(excludes, ())
        for local in self._found[len(packages) :]:
            packages = (*packages, self._pack(local, excludes))
            self._local[excludes] = packages
        return packages

    def _pack(self, local: Local, excludes: tuple[str, ...]) -> Package:
        others = [each.folder for each in self._found if each.package]
        packer = self._open()
        archive = packer.packing.local(local, excludes, others)
        status = local.folder.stat()
        seen = Seen(str(local.folder), status.st_dev, status.st_ino)
        return msgspec.structs.replace(packer.store(archive, local.source), seen=seen)

    def _open(self) -> Packer:
        if self._packer is None:
            from cloudray import platform
            from cloudray.code.kept import Kept
            from cloudray.code.packer import Packer
            from cloudray.code.packing import Packing

            kept = Kept(platform.cache_folder() / "archives", 10 * self._limit_bytes)
            packing = Packing(self._limit_bytes, kept)
            self._packer = Packer(packing, self._upload, self._cluster, self._limit_bytes)
        return self._packer
