"""From what a runtime environment asks for to packages in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cloudray.code import remote
from cloudray.code.archives import Archive, Item
from cloudray.code.packing import MAX_CODE_BYTES, Packing
from cloudray.code.wishes import Wishes, is_archive, is_url
from cloudray.protocol.records import Code, Package


class Packer:
    """Turns wishes into packages, each of which is read once, and stored once for its job.

    `upload` stores an archive under its digest. So what is at a path or a URL when it is first
    needed is what the job's tasks get until its end.
    """

    def __init__(
        self, packing: Packing, upload: Callable[[str, bytes], None], cluster: str, limit_bytes: int
    ) -> None:
        self.packing = packing
        self._upload = upload
        self._cluster = cluster
        self._limit_bytes = limit_bytes
        self._uploaded: set[str] = set()
        self._packages: dict[tuple[str, tuple[str, ...], bool], Package] = {}

    @classmethod
    def of_task(cls, upload: Callable[[str, bytes], None]) -> Packer:
        """One for a task that calls functions which ask for code."""
        return cls(Packing(MAX_CODE_BYTES), upload, "", MAX_CODE_BYTES)

    def pack(self, wishes: Wishes) -> Code:
        """The packages that are asked for.

        Raises ValueError when one cannot be had, or is too large, and OSError when files in it
        cannot be read.
        """
        excludes = wishes.excludes or ()
        working_dir = None
        if wishes.working_dir is not None:
            working_dir = self._package(wishes.working_dir, excludes, as_modules=False)
        modules = tuple(
            self._package(each, excludes, as_modules=True) for each in wishes.py_modules or ()
        )
        code = Code(working_dir, modules)
        return code if wishes.packed is None else inherit(wishes.packed, code)

    def store(self, archive: Archive, source: str) -> Package:
        """Store an archive, unless this job has it."""
        if archive.digest not in self._uploaded:
            self._upload(archive.digest, archive.body)
            self._uploaded.add(archive.digest)
        return Package(archive.digest, source, len(archive.body))

    def _package(self, source: str, excludes: tuple[str, ...], *, as_modules: bool) -> Package:
        key = (source, excludes, as_modules)
        package = self._packages.get(key)
        if package is None:
            archive = self._archive(source, excludes, as_modules=as_modules)
            package = self._packages[key] = self.store(archive, source)
        return package

    def _archive(self, source: str, excludes: Sequence[str], *, as_modules: bool) -> Archive:
        if not is_url(source):
            path = Path(source)
            if not is_archive(source) or path.is_dir():
                if as_modules:
                    return self.packing.module(path, excludes)
                return self.packing.folder(path, excludes)
            body = self.packing.read(path)
        else:
            found = remote.read(source, self._limit_bytes, self._cluster)
            if isinstance(found, dict):
                return self._remote_folder(found, source, excludes, as_modules=as_modules)
            body = found
        if source.lower().partition("?")[0].endswith(".whl"):
            return self.packing.wheel(body, source)
        strip = as_modules or is_url(source)
        return self.packing.archive(body, source, excludes, as_modules=as_modules, strip=strip)

    def _remote_folder(
        self,
        found: dict[str, bytes],
        source: str,
        excludes: Sequence[str],
        *,
        as_modules: bool,
    ) -> Archive:
        # As a local folder: the module is the folder itself.
        under = f"{source.rstrip('/').rpartition('/')[2]}/" if as_modules else ""
        items = [Item(under + name, body) for name, body in found.items()]
        return self.packing.items(items, source, excludes)


def inherit(own: Code, others: Code) -> Code:
    """A function's own code, and where it has none that of the task which calls it."""
    working_dir = own.working_dir or others.working_dir
    local = () if working_dir is not None else own.local or others.local
    return Code(working_dir, own.py_modules or others.py_modules, local)
