"""What stays at home: `.gitignore` files, the option `excludes`, and what is never code."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: Files with patterns for the folder that they lie in, in Git's syntax; a later one wins.
FILES = (".gitignore", ".rayignore", ".cloudrayignore")
#: What nobody wants to send, unless a pattern with "!" says so.
USUAL = (
    "__pycache__/",
    "*.py[co]",
    ".venv/",
    "venv/",
    "node_modules/",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".nox/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".tox/",
    ".hypothesis/",
    ".DS_Store",
    "*.egg-info/",
)
#: What never travels, whatever patterns say: the history, and all that ever was in it.
NEVER = frozenset({".git", ".hg", ".svn", ".bzr", ".jj"})
#: What makes a folder an environment of installed packages.
_ENVIRONMENT = "pyvenv.cfg"


class Ignores:
    """The patterns that hold in one folder.

    Those of `excludes` are asked first, then the files in the folder and those above it, the
    nearest first, and what is usual at last; within each, the last pattern that fits decides.
    """

    def __init__(self, root: Path, excludes: Sequence[str] = ()) -> None:
        """The patterns for `root`, and those of the repository that it lies in.

        Raises ValueError when one of `excludes` is no pattern.
        """
        self._root = root
        self._excludes = _spec(excludes, "excludes")
        self._usual = _spec(USUAL, "the usual")
        #: (folder, patterns), the nearest first
        self._rules: tuple[tuple[Path, GitIgnoreSpec], ...] = ()
        above = _repository_of(root)
        for folder in reversed(above):
            self._rules = (*_read(folder), *self._rules)
        if above and self.ignores(root, is_folder=True):
            # Who asks for an ignored folder wants what is in it.
            self._rules = ()
        self._rules = (*_read(root), *self._rules)

    def inside(self, folder: Path) -> Ignores:
        """The patterns that hold in a folder below."""
        more = _read(folder)
        if not more:
            return self
        found = copy.copy(self)
        found._rules = (*more, *self._rules)  # noqa: SLF001 - it is one of us
        return found

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Whether a file or folder stays at home."""
        if path.name in NEVER:
            return True
        end = "/" if is_folder else ""
        if path != self._root:
            said = _asked(self._excludes, path.relative_to(self._root), end)
            if said is not None:
                return said
        for folder, spec in self._rules:
            said = _asked(spec, path.relative_to(folder), end)
            if said is not None:
                return said
        if path == self._root:
            return False
        if is_folder and (path / _ENVIRONMENT).is_file():
            return True
        return bool(_asked(self._usual, path.relative_to(self._root), end))


def _asked(spec: GitIgnoreSpec | None, path: Path, end: str) -> bool | None:
    return None if spec is None else spec.check_file(f"{PurePosixPath(path)}{end}").include


def _spec(patterns: Iterable[str], where: str) -> GitIgnoreSpec | None:
    import pathspec  # only who packs a folder needs it

    lines = list(patterns)
    if not lines:
        return None
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read(folder: Path) -> tuple[tuple[Path, GitIgnoreSpec], ...]:
    lines: list[str] = []
    for name in FILES:
        path = folder / name
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        lines += text.splitlines()
    spec = _spec(lines, f"the ignore files of {folder}")
    return () if spec is None else ((folder, spec),)


def _repository_of(root: Path) -> list[Path]:
    """The folders above `root` in its Git repository, the nearest first."""
    if (root / ".git").exists():
        return []
    for number, folder in enumerate(root.parents):
        if (folder / ".git").exists():
            return list(root.parents[: number + 1])
    return []
