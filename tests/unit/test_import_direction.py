"""Each layer imports only from layers under it, so that a reader may start at the bottom.

Every import counts: also one inside a function, and one for type checkers only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cloudray"

#: From top to bottom. The modules of a layer may import each other; neighbours on one line may not.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("testing",),
    ("data", "train", "tune", "serve", "rl", "dashboard"),
    ("util",),
    ("face",),
    ("api",),
    ("fleet",),
    ("driver",),
    ("agent",),
    ("executor",),
    ("code",),
    ("protocol",),
    ("values",),
    ("bells",),
    ("store",),
    ("ground",),
)
RANKS = {layer: rank for rank, line in enumerate(reversed(LAYERS)) for layer in line}

#: The libraries see what a user sees.
LIBRARIES = LAYERS[2]
PUBLIC = {"util", "face", "ground"}


def layer_of(module: str, folders: set[str]) -> str:
    """The layer of `cloudray.x.y`: its folder, "face" for `cloudray`, else "ground".

    `cloudray.__main__` is the command line.
    """
    _, *rest = module.split(".")
    if not rest:
        return "face"
    if rest == ["__main__"]:
        return "cli"
    return rest[0] if rest[0] in folders else "ground"


def imported_modules(tree: ast.Module, package: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Every `cloudray` module that a module in `package` imports, with its line."""
    for node in ast.walk(tree):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = list(_names_imported_from(node, package, known))
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ) if called in {"import_module", "__import__"}:
                names = [name]
            case _:
                continue
        for name in names:
            if name.split(".")[0] == "cloudray":
                yield node.lineno, name


def _names_imported_from(node: ast.ImportFrom, package: str, known: set[str]) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        above = parents[: len(parents) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    for alias in node.names:
        # `from cloudray import refs` imports a module, `from cloudray import get` a name.
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in known else base


def violations(package: Path) -> list[str]:
    """One line for each import in `package` that goes upwards, and each folder without layer."""
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    folders |= {path.parent.name for path in package.glob("*/*.py")}
    found = [f"cloudray/{name}/ has no layer" for name in sorted(folders - RANKS.keys())]
    modules = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    for module, path in modules.items():
        layer = layer_of(module, folders)
        own_package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, target in imported_modules(tree, own_package, set(modules)):
            if not allowed(layer, layer_of(target, folders)):
                where = path.relative_to(package.parent).as_posix()
                found.append(f"{where}:{line} ({layer}) imports {target}")
    return found


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def allowed(importer: str, imported: str) -> bool:
    if importer == imported or not {importer, imported} <= RANKS.keys():
        return True
    if importer in LIBRARIES:
        return imported in PUBLIC
    return RANKS[imported] < RANKS[importer]


def test_every_import_goes_downwards() -> None:
    assert violations(PACKAGE) == []


def plant(root: Path, **sources: str) -> Path:
    """A small package with a module for each `layer__module=source`."""
    package = root / "cloudray"
    package.mkdir()
    for name in ("__init__", "refs", "api__tasks", "agent__run", "store__base", "testing__fake"):
        sources.setdefault(name, "")
    for name, source in sources.items():
        path = package.joinpath(*name.split("__") if name != "__init__" else [name])
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".py").write_text(source)
    return package


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import cloudray.agent.run", "cloudray.agent.run"),
        ("import os, cloudray.agent.run as run", "cloudray.agent.run"),
        ("from cloudray.agent.run import main", "cloudray.agent.run"),
        ("from cloudray.agent import run", "cloudray.agent.run"),
        ("from cloudray import agent", "cloudray"),
        ("from cloudray import get", "cloudray"),
        ("from ..agent import run", "cloudray.agent.run"),
        ("from .. import get", "cloudray"),
        ("def later():\n    import cloudray.api.tasks", "cloudray.api.tasks"),
        ("if TYPE_CHECKING:\n    from cloudray.api import tasks", "cloudray.api.tasks"),
        ("importlib.import_module('cloudray.agent.run')", "cloudray.agent.run"),
        ("__import__('cloudray.agent.run')", "cloudray.agent.run"),
        ("import cloudray.testing.fake", "cloudray.testing.fake"),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, source: str, target: str) -> None:
    package = plant(tmp_path, store__planted=source)
    line = source.count("\n") + 1
    assert violations(package) == [f"cloudray/store/planted.py:{line} (store) imports {target}"]


@pytest.mark.parametrize(
    "planted",
    [
        {"agent__planted": "from cloudray.store.base import Store"},
        {"agent__planted": "from cloudray import refs"},
        {"agent__planted": "from . import run"},
        {"store____init__": "from .base import Store"},
        {"testing__planted": "import cloudray.api.tasks"},
        {"__init__": "from cloudray.api.tasks import get"},
        {"util__pool": "import cloudray"},
        {"data__sets": "import cloudray\nfrom cloudray.util import pool"},
        {"refs": "import os\nfrom cloudray.ids import new"},
    ],
)
def test_a_downward_import_is_fine(tmp_path: Path, planted: dict[str, str]) -> None:
    assert violations(plant(tmp_path, **planted)) == []


def test_the_ground_imports_no_layer(tmp_path: Path) -> None:
    package = plant(tmp_path, refs="from cloudray.store import base")
    assert violations(package) == ["cloudray/refs.py:1 (ground) imports cloudray.store.base"]


def test_a_library_imports_only_what_a_user_would(tmp_path: Path) -> None:
    package = plant(tmp_path, data__sets="import cloudray.driver.buffer", driver__buffer="")
    assert violations(package) == ["cloudray/data/sets.py:1 (data) imports cloudray.driver.buffer"]


def test_neighbours_on_one_line_do_not_import_each_other(tmp_path: Path) -> None:
    package = plant(tmp_path, data__sets="import cloudray.train.loop", train__loop="")
    assert violations(package) == ["cloudray/data/sets.py:1 (data) imports cloudray.train.loop"]


def test_a_folder_without_a_layer_is_found(tmp_path: Path) -> None:
    package = plant(tmp_path, attic__old="")
    assert violations(package) == ["cloudray/attic/ has no layer"]
