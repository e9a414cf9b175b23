"""Archives of code: ZIP files that are the same, byte by byte, whenever their content is.

What is unpacked is not trusted: names that lead out of the folder, links, devices and whatever
grows beyond its limits are refused, and nothing of such an archive is kept by the caller.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from cloudray.sizes import show_size

#: More files than this are no code.
MAX_ENTRIES = 100_000
#: Unpacked, an archive may be so many times larger than it may be packed.
MAX_GROWTH = 20
#: Every entry is as old as a ZIP file can say, so that archives differ by their content alone.
_TIME = (1980, 1, 1, 0, 0, 0)
#: ... and so is what is unpacked, in UTC seconds: a file that was changed since is younger.
UNPACKED_S = 315_532_800
_UNIX = 3
_CHUNK_BYTES = 1 << 20
#: What filesystems allow for a path, and for a name in it.
_MAX_NAME_BYTES, _MAX_PART_BYTES = 4096, 255
#: What is compressed already is stored as it is.
_COMPRESSED = frozenset(
    (
        *(".7z", ".br", ".bz2", ".gz", ".lz4", ".npz", ".whl", ".xz", ".zip", ".zst"),
        *(".gif", ".jpeg", ".jpg", ".mp3", ".mp4", ".parquet", ".png", ".pt", ".safetensors"),
        ".webp",
    )
)
#: What zipfile raises when it reads what is damaged.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_EXECUTABLE, _PLAIN = 0o755, 0o644


class UnsafeArchiveError(Exception):
    """An archive that will not be unpacked: the message says which entry is why."""


class ArchiveTooLargeError(UnsafeArchiveError):
    """An archive with more in it than it may have."""


class Archive(msgspec.Struct, frozen=True):
    """Packed code."""

    #: sha256 of `body`, in hexadecimal
    digest: str
    body: bytes
    #: bytes of each file in `body`, by name
    sizes: Mapping[str, int]


class Item(msgspec.Struct, frozen=True):
    """A file to be packed."""

    #: where it will be, relative to the folder where the archive is unpacked, with slashes
    name: str
    #: the file, or its content
    content: Path | bytes
    executable: bool = False


def pack(items: Iterable[Item], folders: Iterable[str] = ()) -> Archive:
    """Pack files, in the order of their names, and folders that may be empty.

    Raises OSError when a file cannot be read, ValueError when its name cannot travel.

    >>> one = pack([Item("a.py", b"A = 1"), Item("b.py", b"")])
    >>> one.digest == pack([Item("b.py", b""), Item("a.py", b"A = 1")]).digest
    True
    """
    file = io.BytesIO()
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted(set(folders)):
            check_name(folder)
            archive.writestr(
                _info(f"{folder}/", stat.S_IFDIR | _EXECUTABLE, zipfile.ZIP_STORED), b""
            )
        for item in sorted(items, key=lambda item: item.name):
            check_name(item.name)
            suffix = os.path.splitext(item.name)[1].lower()  # noqa: PTH122 - no path is made of it
            method = zipfile.ZIP_STORED if suffix in _COMPRESSED else zipfile.ZIP_DEFLATED
            mode = _EXECUTABLE if item.executable else _PLAIN
            info = _info(item.name, stat.S_IFREG | mode, method)
            try:
                source = _open(item)
            except FileNotFoundError:
                # It has gone since it was found, as temporary files do.
                continue
            start = file.tell()
            with source, archive.open(info, "w", force_zip64=True) as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
            sizes[item.name] = file.tell() - start
    body = file.getvalue()
    return Archive(hashlib.sha256(body).hexdigest(), body, sizes)


def _open(item: Item) -> IO[bytes]:
    return io.BytesIO(item.content) if isinstance(item.content, bytes) else item.content.open("rb")


def _info(name: str, mode: int, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system = _UNIX
    info.external_attr = mode << 16
    info.compress_type = method
    return info


def check_name(name: str) -> tuple[str, ...]:
    """The parts of an entry's name, if it leads to a place inside of the folder, and to one only.

    Raises `UnsafeArchiveError` for any other.

    >>> check_name("tea/cup.py")
    ('tea', 'cup.py')
    """
    parts = tuple(name.removesuffix("/").split("/"))
    odd = (
        any(part in {"", ".", ".."} for part in parts)
        # What is a path, a drive or a stream on some system, is none of ours.
        or "\\" in name
        or (len(parts[0]) > 1 and parts[0][1] == ":")
        or any(sign < " " or sign == "\x7f" for sign in name)
    )
    if odd:
        raise UnsafeArchiveError(f"{name!r} is no name of a file inside of the archive's folder")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise UnsafeArchiveError(f"{name!r} is no text, so it is no name of a file") from None
    if size_bytes > _MAX_NAME_BYTES or any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        raise UnsafeArchiveError(f"{name[:80]!r}... is too long for the name of a file")
    return parts


def entries_of(archive: zipfile.ZipFile, max_entries: int = MAX_ENTRIES) -> list[zipfile.ZipInfo]:
    """The entries of an archive, if all of them may be unpacked.

    Raises `UnsafeArchiveError`, naming the entry, for paths out of the folder, links, devices,
    encrypted entries, a name that stands twice or is both a file and a folder, and too many.
    """
    infos = archive.infolist()
    if len(infos) > max_entries:
        raise ArchiveTooLargeError(f"it has {len(infos):,} entries, more than {max_entries:,}")
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for info in infos:
        # zipfile cuts names at a zero byte; what stands in the file is what counts.
        parts = check_name(info.orig_filename if "\0" in info.orig_filename else info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
        if kind not in {0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG}:
            what = "a link" if stat.S_ISLNK(kind) else "neither a file nor a folder"
            raise UnsafeArchiveError(f"{info.filename!r} is {what}")
        if info.compress_type not in _METHODS:
            raise UnsafeArchiveError(f"{info.filename!r} is compressed in an unusual way")
        if info.flag_bits & 1:
            raise UnsafeArchiveError(f"{info.filename!r} is encrypted")
        if not info.is_dir() and parts in files:
            raise UnsafeArchiveError(f"{info.filename!r} stands there twice")
        (folders if info.is_dir() else files).add(parts)
        folders.update(parts[:end] for end in range(1, len(parts)))
    both = next(iter(files & folders), None)
    if both is not None:
        raise UnsafeArchiveError(f"{'/'.join(both)!r} is both a file and a folder")
    return infos


def unpack(
    body: bytes | memoryview, folder: Path, *, max_bytes: int, max_entries: int = MAX_ENTRIES
) -> int:
    """Unpack an archive into an empty folder; returns how many bytes of files it has.

    Whatever an archive says of itself, no more than `max_bytes` are written, and nothing outside
    of `folder`. Raises `UnsafeArchiveError`, and OSError when there is no room. What has been
    written by then is the caller's to remove.
    """
    written = 0
    with _opened(body) as archive:
        for info in entries_of(archive, max_entries):
            path = folder.joinpath(*check_name(info.filename))
            if info.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = _EXECUTABLE if (info.external_attr >> 16) & stat.S_IXUSR else _PLAIN
            # Never through a link, and never twice: there is none in an empty folder of ours.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                for chunk in chunks_of(archive, info):
                    written += len(chunk)
                    if written > max_bytes:
                        msg = f"it unpacks to more than {show_size(max_bytes)}"
                        raise ArchiveTooLargeError(msg)
                    _write(descriptor, chunk)
                os.utime(descriptor if os.utime in os.supports_fd else path, (UNPACKED_S,) * 2)
            finally:
                os.close(descriptor)
    return written


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def chunks_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of an entry, piece by piece; raises `UnsafeArchiveError` when it is damaged."""
    try:
        with archive.open(info) as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except _BROKEN as error:
        raise UnsafeArchiveError(f"{info.filename!r} cannot be read: {error}") from None


def _opened(body: bytes | memoryview) -> zipfile.ZipFile:
    return open_archive(io.BytesIO(body))


def open_archive(file: IO[bytes] | Path) -> zipfile.ZipFile:
    """Open a ZIP file; raises `UnsafeArchiveError` when it is none."""
    try:
        return zipfile.ZipFile(file)
    except _BROKEN as error:
        raise UnsafeArchiveError(f"it is no ZIP file: {error}") from None
