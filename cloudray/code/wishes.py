"""What a runtime environment asks for in the way of code: checked, and not looked into yet."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from cloudray.protocol.records import Code

_ARCHIVES = (".zip", ".whl")


class Wishes(msgspec.Struct, frozen=True):
    """The fields of a runtime environment that are about code; None where one is not given."""

    #: an absolute path, or a URL
    working_dir: str | None = None
    #: absolute paths, URLs
    py_modules: tuple[str, ...] | None = None
    #: patterns in Git's syntax
    excludes: tuple[str, ...] | None = None
    #: what these have become already, for an option that travels itself
    packed: Code | None = None

    def __bool__(self) -> bool:
        return self != _NOTHING

    def over(self, job: Wishes) -> Wishes:
        """These, and those of the job where these say nothing."""
        if not job:
            return self
        if not self:
            return job
        return Wishes(
            job.working_dir if self.working_dir is None else self.working_dir,
            job.py_modules if self.py_modules is None else self.py_modules,
            job.excludes if self.excludes is None else self.excludes,
            self.packed,
        )

    def as_fields(self) -> dict[str, Any]:
        """As a user would write them."""
        fields: dict[str, Any] = {}
        if self.working_dir is not None:
            fields["working_dir"] = self.working_dir
        if self.py_modules is not None:
            fields["py_modules"] = list(self.py_modules)
        if self.excludes is not None:
            fields["excludes"] = list(self.excludes)
        return fields


_NOTHING = Wishes()


def is_url(text: str) -> bool:
    """Whether this is a URL, and not the path of a local file or folder.

    >>> is_url("s3://bucket/code.zip"), is_url("./code.zip")
    (True, False)
    """
    return "://" in text


def is_archive(text: str) -> bool:
    """Whether a path or URL names a ZIP file or a wheel.

    >>> is_archive("https://example.org/main.zip?token=1"), is_archive("s3://bucket/folder")
    (True, False)
    """
    path = text.partition("?")[0] if is_url(text) else text
    return path.lower().endswith(_ARCHIVES)


def working_dir_of(value: Any) -> str:
    """Check `working_dir`: an existing folder, a ZIP file, or a URL. Returns path or URL.

    Raises TypeError or ValueError.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            "runtime_env['working_dir'] must be of type str, but received type "
            f"{type(value).__name__}"
        )
    text = os.fspath(value)
    if is_url(text):
        return text
    path = _existing("working_dir", text)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise ValueError(
            f"runtime_env['working_dir'] must be a folder, a .zip file, or a URL, not the file "
            f"{path}. Name its folder, or send it with py_modules."
        )
    return str(path)


def py_modules_of(value: Any) -> tuple[str, ...]:
    """Check `py_modules`: paths of packages, modules, wheels and ZIP files; URLs; modules.

    Raises TypeError or ValueError.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            "runtime_env['py_modules'] must be of type List[str], but received type "
            f"{type(value).__name__}"
        )
    return tuple(_module_of(each) for each in value)


def _module_of(value: Any) -> str:
    if isinstance(value, ModuleType):
        return str(folder_of_module(value))
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            "runtime_env['py_modules'] must have paths, URLs or modules, but it has "
            f"{value!r} of type {type(value).__name__}"
        )
    text = os.fspath(value)
    if is_url(text):
        return text
    path = _existing("py_modules", text)
    suffixes = (".py", ".zip", ".whl", *_extension_suffixes())
    if not path.is_dir() and not path.name.lower().endswith(suffixes):
        raise ValueError(
            f"runtime_env['py_modules'] must have packages (folders), modules (.py), wheels (.whl) "
            f"or .zip files, not {path}"
        )
    return str(path)


def _extension_suffixes() -> tuple[str, ...]:
    from importlib.machinery import EXTENSION_SUFFIXES

    return tuple(suffix.lower() for suffix in EXTENSION_SUFFIXES)


def _existing(field: str, text: str) -> Path:
    path = Path(os.path.realpath(Path(text).expanduser()))
    if not text or not path.exists():
        raise ValueError(
            f"runtime_env[{field!r}]: there is no {text!r} (looked for {path}). Name a folder or "
            "file that exists on this machine, or a URL."
        )
    return path


def excludes_of(value: Any) -> tuple[str, ...]:
    """Check `excludes`: a list of patterns. Raises TypeError or ValueError."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise TypeError(
            f"runtime_env['excludes'] must be of type List[str], but received {value!r}"
        )
    import pathspec

    try:
        pathspec.GitIgnoreSpec.from_lines(value)
    except ValueError as error:
        raise ValueError(f"runtime_env['excludes'] has a pattern that is none: {error}") from None
    return tuple(value)


def folder_of_module(module: Any) -> Path:
    """Where an imported module lies: its file, or the folder of a package.

    Raises ValueError for one that has neither.
    """
    paths = list(getattr(module, "__path__", ()))
    file = getattr(module, "__file__", None)
    if len(paths) == 1 or (paths and file):
        return Path(paths[0]).resolve()
    if not paths and isinstance(file, str):
        return Path(file).resolve()
    name = getattr(module, "__name__", repr(module))
    if paths:
        where = ", ".join(map(str, paths))
        msg = f"the namespace package {name} lies in several folders: name one of {where}"
    else:
        msg = f"the module {name} has no file, so it cannot be sent"
    raise ValueError(f"runtime_env['py_modules']: {msg}")
