"""What of a folder travels: its files, with links followed, without what is ignored."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from cloudray.code.archives import MAX_ENTRIES
from cloudray.code.ignores import Ignores


class UnreadableError(OSError):
    """Files that should travel cannot be read: the message names them."""


class Found(msgspec.Struct, frozen=True):
    """A file that travels."""

    #: relative to the folder that was walked, with slashes
    name: str
    path: Path
    status: os.stat_result

    @property
    def executable(self) -> bool:
        """Whether its owner may run it."""
        return bool(self.status.st_mode & stat.S_IXUSR)


class Walk(msgspec.Struct, frozen=True):
    """What was found in a folder."""

    #: in the order of their names
    files: tuple[Found, ...]
    #: folders without a file in them, so that programs find them
    empty: tuple[str, ...]


_UNREADABLE_SHOWN = 5


def walk(
    root: Path,
    excludes: Sequence[str] = (),
    *,
    wanted: Callable[[Path], bool] | None = None,
    always: frozenset[str] = frozenset(),
    only: frozenset[Path] | None = None,
    strict: bool = True,
) -> Walk:
    """Look through a folder.

    A link stands for what it leads to, wherever that is; one that leads nowhere, or back to a
    folder that it lies in, is left out, and so are sockets, devices and the like. `wanted` chooses
    among files; those in `always` (absolute paths) travel though they are ignored. `only` these
    folders directly in `root` are looked through; None: all.

    Raises `UnreadableError` when a file or folder that should travel cannot be read (unless not
    `strict`: then it is left out), and ValueError for more files than code has.
    """
    walker = _Walker(root, wanted, always, only)
    status = root.stat()
    walker.look(root, "", Ignores(root, excludes), frozenset({(status.st_dev, status.st_ino)}))
    if walker.unreadable and strict:
        raise UnreadableError(_told(root, walker.unreadable))
    files = sorted(walker.files, key=lambda found: found.name)
    return Walk(tuple(files), tuple(walker.empty))


class _Walker:
    def __init__(
        self,
        root: Path,
        wanted: Callable[[Path], bool] | None,
        always: frozenset[str],
        only: frozenset[Path] | None,
    ) -> None:
        self._root = root
        self._wanted = wanted
        self._always = always
        self._only = only
        self.files: list[Found] = []
        self.empty: list[str] = []
        self.unreadable: list[str] = []

    def look(
        self, folder: Path, name: str, rules: Ignores | None, above: frozenset[tuple[int, int]]
    ) -> bool:
        """Look through a folder that is called `name`; whether anything in it travels.

        `rules` are None in an ignored one, and `above` are the folders that it lies in.
        """
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append(f"{folder} ({error.strerror})")
            return False
        holds = False
        for entry in entries:
            path = folder / entry.name
            try:
                status = entry.stat()
            except OSError:
                # A link to nowhere or to itself, or what is gone already.
                continue
            inner = f"{name}{entry.name}"
            if stat.S_ISDIR(status.st_mode):
                key = (status.st_dev, status.st_ino)
                if key not in above and (name or self._only is None or path in self._only):
                    holds = self._look_inside(path, inner, rules, above | {key}) or holds
            elif stat.S_ISREG(status.st_mode) and self._travels(path, rules):
                holds = True
                self._take(Found(inner, path, status))
        if not holds and name and rules is not None and self._wanted is None:
            self.empty.append(name[:-1])
            return True
        return holds

    def _look_inside(
        self, path: Path, name: str, rules: Ignores | None, above: frozenset[tuple[int, int]]
    ) -> bool:
        inside = None
        if rules is not None and not rules.ignores(path, is_folder=True):
            inside = rules.inside(path)
        elif not any(one.startswith(f"{path}{os.sep}") for one in self._always):
            return False
        return self.look(path, f"{name}/", inside, above)

    def _travels(self, path: Path, rules: Ignores | None) -> bool:
        if str(path) in self._always:
            return True
        if rules is None or rules.ignores(path, is_folder=False):
            return False
        return self._wanted is None or self._wanted(path)

    def _take(self, found: Found) -> None:
        if not os.access(found.path, os.R_OK):
            self.unreadable.append(f"{found.path} (Permission denied)")
            return
        self.files.append(found)
        if len(self.files) > MAX_ENTRIES:
            msg = f"{self._root} has more than {MAX_ENTRIES:,} files, which is more than code has"
            raise ValueError(msg)


def _told(root: Path, unreadable: Sequence[str]) -> str:
    shown = ", ".join(unreadable[:_UNREADABLE_SHOWN])
    rest = len(unreadable) - _UNREADABLE_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return (
        f"{root} cannot be sent, because these in it cannot be read: {shown}{more}. Make them "
        "readable, or name them in a .gitignore file or in runtime_env={'excludes': [...]}."
    )


def fingerprint(found: Sequence[Found]) -> Iterator[tuple[object, ...]]:
    """What changes when a file does, without reading any of them."""
    for one in found:
        status = one.status
        yield (
            one.name,
            str(one.path),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            status.st_dev,
            status.st_mode,
        )
