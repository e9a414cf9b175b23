"""The code that goes along with a driver's calls."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from cloudray.code import modules
from cloudray.code.wishes import Wishes
from cloudray.driver.luggage import Luggage
from cloudray.protocol.records import Code


class Sent:
    """What was stored."""

    def __init__(self, *, automatic: bool = True, limit_bytes: int = 100_000) -> None:
        self.bodies: dict[str, bytes] = {}
        self.luggage = Luggage(self.upload, automatic=automatic, limit_bytes=limit_bytes)

    def upload(self, digest: str, body: bytes) -> None:
        assert digest not in self.bodies
        self.bodies[digest] = body

    def names(self, code: Code) -> list[list[str]]:
        return [
            zipfile.ZipFile(io.BytesIO(self.bodies[package.digest])).namelist()
            for package in code.local
        ]


class Program:
    """What this process has imported, as far as it is local: nothing at first."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.modules: dict[str, ModuleType] = {}
        # In the place of `sys`, for the one module that looks.
        self.prefix, self.base_prefix = sys.prefix, sys.base_prefix
        patch.setattr(modules, "sys", self)
        patch.setattr(modules, "script_folder", lambda: None)

    def imports(self, name: str, text: str = "") -> Path:
        path = self.folder / f"{name}.py"
        path.write_text(text)
        module = self.modules[name] = ModuleType(name)
        module.__file__ = str(path)
        return path


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


def test_nothing_goes_along_unasked_where_it_need_not(program: Program) -> None:
    program.imports("helper")
    sent = Sent(automatic=False)
    assert not sent.luggage.code_of(Wishes())
    assert sent.bodies == {}


def test_what_is_imported_goes_along_once(program: Program) -> None:
    program.imports("helper", "A = 1")
    sent = Sent()
    first = sent.luggage.code_of(Wishes())
    assert sent.names(first) == [["helper.py"]]
    assert sent.luggage.code_of(Wishes()) == first
    assert len(sent.bodies) == 1


def test_it_says_where_it_comes_from_so_that_who_sees_that_needs_no_copy(
    program: Program, tmp_path: Path
) -> None:
    program.imports("helper")
    (package,) = Sent().luggage.code_of(Wishes()).local
    assert package.seen is not None
    status = tmp_path.stat()
    assert (package.seen.path, package.seen.device, package.seen.inode) == (
        str(tmp_path),
        status.st_dev,
        status.st_ino,
    )


def test_what_is_imported_later_is_added(program: Program) -> None:
    program.imports("first", "A = 1")
    sent = Sent()
    before = sent.luggage.code_of(Wishes())
    program.imports("second", "B = 1")
    after = sent.luggage.code_of(Wishes())
    assert after.local[: len(before.local)] == before.local
    assert sent.names(after) == [["first.py"], ["second.py"]]


def test_what_changes_meanwhile_is_taken_by_the_next_job(program: Program) -> None:
    path = program.imports("helper", "A = 1")
    sent = Sent()
    before = sent.luggage.code_of(Wishes())
    path.write_text("A = 2")
    assert sent.luggage.code_of(Wishes()) == before
    assert Sent().luggage.code_of(Wishes()) != before


def test_with_a_working_directory_nothing_else_goes_along(program: Program, tmp_path: Path) -> None:
    program.imports("helper")
    code = Sent().luggage.code_of(Wishes(working_dir=str(tmp_path)))
    assert code.working_dir is not None
    assert code.local == ()


def test_beside_modules_that_are_asked_for_the_imported_ones_go_along(program: Program) -> None:
    helper = program.imports("helper")
    sent = Sent()
    code = sent.luggage.code_of(Wishes(py_modules=(str(helper),)))
    assert len(code.py_modules) == len(code.local) == 1
    # Of the same content, so it is stored once.
    assert len(sent.bodies) == 1


def test_excludes_hold_for_what_goes_along_unasked(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "tea"
    folder.mkdir()
    for name in ("__init__.py", "data.csv"):
        (folder / name).write_text("")
    package = program.modules["tea"] = ModuleType("tea")
    package.__path__ = [str(folder)]
    sent = Sent()
    assert sent.names(sent.luggage.code_of(Wishes(excludes=("*.csv",)))) == [
        ["tea/", "tea/__init__.py"]
    ]
    assert sent.names(sent.luggage.code_of(Wishes())) == [
        ["tea/", "tea/__init__.py", "tea/data.csv"]
    ]


def test_a_package_that_is_too_large_says_what_to_do(program: Program) -> None:
    program.imports("helper", "A = 1\n" * 300_000)
    with pytest.raises(ValueError, match=r"the modules helper\.py in .* is too large to be sent"):
        Sent(limit_bytes=1000).luggage.code_of(Wishes())
