"""Folders, modules, wheels and ZIP files made into archives that travel."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cloudray.code import archives
from cloudray.code.archives import Archive, ArchiveTooLargeError, Item, UnsafeArchiveError
from cloudray.code.kept import Kept
from cloudray.code.modules import Local, importable_beside, loaded_files
from cloudray.code.walking import Walk, walk
from cloudray.sizes import show_size

#: What code may have when it is packed, unless the user says otherwise.
MAX_CODE_BYTES = 100_000_000
_BIGGEST_SHOWN = 5
_DATA_FOLDER = re.compile(r"[^/]+\.data/(purelib|platlib|scripts|headers|data)/(.+)")
#: A folder or archive that has this file is a package itself.
_PACKAGE_FILE = "__init__.py"
_SOURCE = ".py"


class Packing:
    """Makes archives, none of which may be larger than `limit_bytes`.

    What has been packed and has not changed since is not packed again, where `kept` has it.
    """

    def __init__(self, limit_bytes: int, kept: Kept | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._kept = kept

    def folder(self, folder: Path, excludes: Sequence[str] = (), inside: str = "") -> Archive:
        """A folder's content, as it is, or `inside` of a folder of that name.

        Raises ValueError when it is too large, and `UnreadableError`.
        """
        return self._walked(walk(folder, excludes), str(folder), inside)

    def module(self, path: Path, excludes: Sequence[str] = ()) -> Archive:
        """A package's folder or a module's file, so that it can be imported by its name."""
        if path.is_dir():
            return self.folder(path, excludes, path.name)
        return self._packed([Item(path.name, path)], str(path))

    def local(self, local: Local, excludes: Sequence[str], others: Sequence[Path]) -> Archive:
        """Local code; `others` are folders that travel by themselves."""
        # What this process cannot read it has not imported either.
        if local.package:
            found = walk(local.folder, excludes, always=loaded_files(local.folder), strict=False)
            return self._walked(found, local.source, local.package)
        if not local.beside:
            items = [Item(name, path) for name, path in local.modules.items()]
            return self._packed(items, local.source)
        always = loaded_files(local.folder)
        packages = []
        names = set()
        for path in importable_beside(local.folder):
            if path.is_dir():
                if path.resolve() not in others:
                    packages.append(path)
            else:
                names.add(path.name)
        # What has not been imported yet gets its code only: who knows what else lies there.
        found = walk(
            local.folder,
            excludes,
            wanted=lambda path: (
                path.suffix == _SOURCE
                and (
                    (path.parent == local.folder and path.name in names)
                    or any(path.is_relative_to(package) for package in packages)
                )
            ),
            always=frozenset(
                name
                for name in always
                if os.path.dirname(name) == str(local.folder)  # noqa: PTH120
            ),
            only=frozenset(packages),
            strict=False,
        )
        return self._walked(found, local.source, "")

    def read(self, path: Path) -> bytes:
        """The content of a file that is an archive already; ValueError when it is too large."""
        size_bytes = path.stat().st_size
        if size_bytes > self._limit_bytes:
            raise self._too_large(str(path), size_bytes, {path.name: size_bytes}, packed=True)
        return path.read_bytes()

    def archive(
        self,
        body: bytes,
        source: str,
        excludes: Sequence[str] = (),
        *,
        as_modules: bool = False,
        strip: bool = False,
    ) -> Archive:
        """A ZIP file of the user's, checked, and packed again as all archives are.

        `strip` its only folder, if all is in one; `as_modules`: unless that is a package.

        Raises ValueError when it is none, is unsafe or too large.
        """
        try:
            with archives.open_archive(io.BytesIO(body)) as opened:
                content = self._content(opened)
        except UnsafeArchiveError as error:
            msg = f"{source} cannot be sent: {error}. Make a ZIP file of plain files and folders."
            raise ValueError(msg) from None
        if strip:
            content = _stripped(content, unless_package=as_modules)
        return self._packed(_kept_of(content, excludes), source)

    def items(self, items: Sequence[Item], source: str, excludes: Sequence[str] = ()) -> Archive:
        """Files that were read already. Raises ValueError when they are too large."""
        return self._packed(_kept_of({item.name: item for item in items}, excludes), source)

    def wheel(self, body: bytes, source: str) -> Archive:
        """A wheel, laid out as installing it would, without its scripts.

        Raises ValueError when it is none, is unsafe or too large.
        """
        try:
            with archives.open_archive(io.BytesIO(body)) as opened:
                content = self._content(opened)
        except UnsafeArchiveError as error:
            raise ValueError(f"{source} is not a wheel that can be sent: {error}") from None
        if not any(name.endswith(".dist-info/WHEEL") for name in content):
            msg = f"{source} is not a wheel: it has no .dist-info/WHEEL. Build one: pip wheel ."
            raise ValueError(msg)
        items = []
        for name, item in content.items():
            moved = _DATA_FOLDER.fullmatch(name)
            if moved is None:
                items.append(item)
            elif moved[1] in {"purelib", "platlib"}:
                items.append(Item(moved[2], item.content, item.executable))
        return self._packed(items, source)

    # -- inside --------------------------------------------------------------------------------

    def _content(self, opened: zipfile.ZipFile) -> dict[str, Item]:
        limit_bytes = self._limit_bytes * archives.MAX_GROWTH
        total = 0
        content: dict[str, Item] = {}
        for info in archives.entries_of(opened):
            if info.is_dir():
                continue
            chunks = []
            for chunk in archives.chunks_of(opened, info):
                total += len(chunk)
                if total > limit_bytes:
                    msg = f"it unpacks to more than {show_size(limit_bytes)}"
                    raise ArchiveTooLargeError(msg)
                chunks.append(chunk)
            executable = bool((info.external_attr >> 16) & 0o100)
            content[info.filename] = Item(info.filename, b"".join(chunks), executable)
        return content

    def _walked(self, found: Walk, source: str, inside: str) -> Archive:
        under = f"{inside}/" if inside else ""
        unpacked_bytes = sum(one.status.st_size for one in found.files)
        if unpacked_bytes > self._limit_bytes * archives.MAX_GROWTH:
            # Not worth the time that packing takes.
            sizes = {one.name: one.status.st_size for one in found.files}
            raise self._too_large(source, unpacked_bytes, sizes, packed=False)
        items = [Item(under + one.name, one.path, one.executable) for one in found.files]
        folders = [under + name for name in found.empty] + ([inside] if inside else [])

        def make() -> Archive:
            return self._packed(items, source, folders)

        return make() if self._kept is None else self._kept.get(found.files, under, folders, make)

    def _packed(self, items: Iterable[Item], source: str, folders: Iterable[str] = ()) -> Archive:
        try:
            archive = archives.pack(items, folders)
        except UnsafeArchiveError as error:
            msg = f"{source} cannot be sent: {error}. Rename it, or exclude it."
            raise ValueError(msg) from None
        if len(archive.body) > self._limit_bytes:
            raise self._too_large(source, len(archive.body), archive.sizes, packed=True)
        return archive

    def _too_large(
        self, source: str, size_bytes: int, sizes: Mapping[str, int], *, packed: bool
    ) -> ValueError:
        biggest = sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))[:_BIGGEST_SHOWN]
        shown = ", ".join(f"{name} ({show_size(size)})" for name, size in biggest)
        how = "compressed" if packed else "before it is compressed"
        limit = self._limit_bytes if packed else self._limit_bytes * archives.MAX_GROWTH
        return ValueError(
            f"{source} is too large to be sent: it has {show_size(size_bytes)} {how}, and "
            f"{show_size(limit)} are allowed. The biggest files are {shown}. Leave out what tasks "
            "do not need: name it in a .gitignore file, or in runtime_env={'excludes': [...]}; put "
            "data into the bucket and read it from there. Or allow more, with max_code_size or "
            "CLOUDRAY_MAX_CODE_SIZE."
        )


def _stripped(content: dict[str, Item], *, unless_package: bool) -> dict[str, Item]:
    tops = {name.partition("/")[0] for name in content}
    if len(tops) != 1:
        return content
    top = f"{tops.pop()}/"
    if top[:-1] in content or (unless_package and top + _PACKAGE_FILE in content):
        return content
    return {
        name.removeprefix(top): Item(name.removeprefix(top), item.content, item.executable)
        for name, item in content.items()
    }


def _kept_of(content: Mapping[str, Item], excludes: Sequence[str]) -> list[Item]:
    items = list(content.values())
    if not excludes:
        return items
    import pathspec

    spec = pathspec.GitIgnoreSpec.from_lines(excludes)
    return [item for item in items if not spec.match_file(item.name)]
