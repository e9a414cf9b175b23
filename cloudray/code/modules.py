"""Local code: what a program has imported that is not installed, and what lies beside it."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import msgspec

_INSTALLED = frozenset({"site-packages", "dist-packages"})
#: Modules that are not what they are called, or are never asked for by name.
_NOT_BY_NAME = frozenset({"__main__", "__mp_main__"})
_SOURCE = ".py"
_STDLIB = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - a text


class Local(msgspec.Struct, frozen=True):
    """A folder with code that travels."""

    #: the folder itself
    folder: Path
    #: what it is imported as, when it is a package; empty for a folder of modules
    package: str = ""
    #: the modules in it that travel, by the name under which they do; empty for a package, and
    #: for the folder of the script
    modules: Mapping[str, Path] = {}
    #: it is the folder of the script: what could be imported from it travels, imported or not
    beside: bool = False

    @property
    def source(self) -> str:
        """What it is, for messages."""
        if self.package:
            return f"the package {self.package} in {self.folder}"
        if self.beside:
            return f"the modules beside the script in {self.folder}"
        return f"the modules {', '.join(sorted(self.modules))} in {self.folder}"


class Scout:
    """Finds the local code of this process, each piece of it once.

    A module is local when its file lies outside of the standard library, of what is installed
    (`site-packages`, `dist-packages`) and of CloudRay itself; so what is installed in editable
    mode is local. A local package travels as a whole; and so do the modules and packages beside
    the script, as tasks may import them late.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._packages: set[tuple[str, Path]] = set()
        self._files: set[Path] = set()
        self._asked_for_script = False

    def look(self) -> list[Local]:
        """What has come since the last look."""
        found: list[Local] = []
        loose: dict[Path, dict[str, Path]] = {}
        fresh = sys.modules.keys() - self._seen
        self._seen |= fresh
        for top in {name.partition(".")[0] for name in fresh}:
            module = sys.modules.get(top)
            if top in _NOT_BY_NAME or not top.isidentifier() or not isinstance(module, ModuleType):
                continue
            folders = _folders_of(module)
            if folders:
                for folder in folders:
                    if (top, folder) not in self._packages:
                        self._packages.add((top, folder))
                        found.append(Local(folder, top))
                continue
            path = _file_of(module)
            if path is not None and path not in self._files:
                self._files.add(path)
                loose.setdefault(path.parent, {})[_name_of(top, path)] = path
        if not self._asked_for_script:
            self._asked_for_script = True
            beside = script_folder()
            if beside is not None:
                loose.pop(beside, None)
                found.append(Local(beside, beside=True))
        found += [Local(folder, modules=modules) for folder, modules in loose.items()]
        return sorted(found, key=lambda local: (not local.beside, str(local.folder), local.package))


def _name_of(top: str, path: Path) -> str:
    """The file's name under which it can be imported as `top`, with all of its suffix."""
    return top + path.name[path.name.find(".") :]


def loaded_files(folder: Path) -> frozenset[str]:
    """The files of all modules from there: they travel though Git ignores them."""
    above = f"{folder}{os.sep}"
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return frozenset(file for file in files if isinstance(file, str) and file.startswith(above))


def _folders_of(module: ModuleType) -> list[Path]:
    """The local folders of a package; a namespace package may have several."""
    try:
        entries = list(getattr(module, "__path__", ()))
    except Exception:  # noqa: BLE001 - a module may be anything
        return []
    if len(entries) > 1 and isinstance(getattr(module, "__file__", None), str):
        # A package whose own folder is installed extends over others by its own means.
        entries = entries[:1]
    found = []
    for entry in entries:
        if _may_be_local(entry) and os.path.isdir(entry):  # noqa: PTH112 - far quicker
            folder = Path(os.path.realpath(entry))
            if is_local(folder):
                found.append(folder)
    return found


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if not _may_be_local(file) or not os.path.isfile(file):  # noqa: PTH113 - as above
        return None
    path = Path(os.path.realpath(file))
    return path if is_local(path) else None


def _may_be_local(path: object) -> TypeGuard[str]:
    """Whether to look at all: most modules are Python's own, or installed."""
    return (
        isinstance(path, str)
        and f"{os.sep}site-packages{os.sep}" not in path
        and not path.startswith(_STDLIB)
    )


def is_local(path: Path) -> bool:
    """Whether what lies there is neither installed nor part of Python or CloudRay."""
    if not _INSTALLED.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _installed_folders())


@cache
def _installed_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names}
    folders |= {
        sysconfig.get_path(name, vars={"base": base, "platbase": base})
        for name in names
        for base in (sys.prefix, sys.base_prefix)
    }
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    folders.add(os.path.dirname(os.__file__))  # noqa: PTH120 - a text
    ours = Path(__file__).resolve().parents[1]
    return (*(Path(folder).resolve() for folder in sorted(filter(None, folders))), ours)


def script_folder() -> Path | None:
    """The folder in which the running script finds modules; None without a script of the user's."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or not os.path.isfile(file):  # noqa: PTH113 - quicker
        return None
    folder = Path(os.path.realpath(file)).parent
    # python -m package.module: where the package lies.
    package = getattr(main, "__package__", None) or ""
    for part in reversed(package.split(".")) if package else ():
        if folder.name != part:
            break
        folder = folder.parent
    scripts = Path(sysconfig.get_path("scripts")).resolve()
    # What was installed starts from there, and what is installed does not travel.
    return folder if is_local(folder) and not folder.is_relative_to(scripts) else None


def importable_beside(folder: Path) -> Iterator[Path]:
    """The modules and packages directly in a folder."""
    try:
        paths = sorted(folder.iterdir())
    except PermissionError:
        return
    for path in paths:
        # Not by `Path`, which raises an error for what may not be looked at.
        is_module = path.suffix == _SOURCE and os.path.isfile(path)  # noqa: PTH113
        is_package = path.name.isidentifier() and os.path.isfile(path / "__init__.py")  # noqa: PTH113
        if (is_module or is_package) and is_local(path.resolve()):
            yield path
