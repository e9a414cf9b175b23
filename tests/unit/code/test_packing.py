"""Folders, modules, wheels and ZIP files as archives: what is in them, and what is refused."""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from cloudray.code.archives import Archive
from cloudray.code.modules import Local
from cloudray.code.packing import Packing

LIMIT_BYTES = 100_000


@pytest.fixture
def packing() -> Packing:
    return Packing(LIMIT_BYTES)


def names_in(archive: Archive) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive.body)).namelist()


def zip_of(content: Mapping[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in content.items():
            archive.writestr(name, body)
    return file.getvalue()


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_a_working_directory_is_packed_as_it_is(tmp_path: Path, packing: Packing) -> None:
    write(tmp_path, "a.py", "data/x.csv")
    assert names_in(packing.folder(tmp_path)) == ["a.py", "data/x.csv"]


def test_a_package_keeps_its_name(tmp_path: Path, packing: Packing) -> None:
    folder = write(tmp_path / "tea", "__init__.py", "cup/__init__.py", "tests/t.py")
    archive = packing.module(folder, ["tests/"])
    assert names_in(archive) == ["tea/", "tea/__init__.py", "tea/cup/__init__.py"]


def test_a_module_is_packed_alone(tmp_path: Path, packing: Packing) -> None:
    write(tmp_path, "tea.py", "other.py")
    assert names_in(packing.module(tmp_path / "tea.py")) == ["tea.py"]


# -- sizes ---------------------------------------------------------------------------------


def test_what_is_too_large_is_told_by_its_biggest_files(tmp_path: Path, packing: Packing) -> None:
    write(tmp_path, "a.py")
    for number in range(1, 9):
        (tmp_path / f"weights-{number}.bin").write_bytes(os.urandom(10_000 * number))
    with pytest.raises(ValueError, match="too large to be sent") as info:
        packing.folder(tmp_path)
    told = str(info.value)
    assert re.search(r"it has 361\.\d KB compressed, and 100\.0 KB are allowed", told)
    biggest = [f"weights-{number}.bin" for number in (8, 7, 6, 5, 4)]
    assert [told.index(name) for name in biggest] == sorted(told.index(name) for name in biggest)
    assert "weights-3.bin" not in told
    for advice in (".gitignore", "excludes", "CLOUDRAY_MAX_CODE_SIZE"):
        assert advice in told


def test_what_is_far_too_large_is_not_even_packed(
    tmp_path: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(LIMIT_BYTES * 21)
    monkeypatch.setattr("cloudray.code.archives.pack", None)
    with pytest.raises(ValueError, match=r"huge \(2\.1 MB\)"):
        packing.folder(tmp_path)


def test_what_compresses_well_may_be_larger(tmp_path: Path, packing: Packing) -> None:
    (tmp_path / "zeros").write_bytes(bytes(LIMIT_BYTES * 3))
    assert len(packing.folder(tmp_path).body) < LIMIT_BYTES


# -- archives of the user's ------------------------------------------------------------------


def test_a_zip_file_is_packed_again_so_that_it_is_the_same(packing: Packing) -> None:
    first = zip_of({"b": "2", "a": "1"})
    second = zip_of({"a": "1", "b": "2"})
    assert first != second
    assert packing.archive(first, "x.zip") == packing.archive(second, "x.zip")


def test_excludes_hold_in_it_too(packing: Packing) -> None:
    body = zip_of({"a.py": "", "data/x.csv": "", "data/y.py": ""})
    assert names_in(packing.archive(body, "x.zip", ["*.csv"])) == ["a.py", "data/y.py"]


@pytest.mark.parametrize(
    ("names", "as_modules", "kept"),
    [
        (["repo-main/a.py", "repo-main/b/c.py"], False, ["a.py", "b/c.py"]),
        (["repo-main/a.py", "b.py"], False, ["b.py", "repo-main/a.py"]),
        (["a.py"], False, ["a.py"]),
        (["repo-main/tea/__init__.py"], True, ["tea/__init__.py"]),
        (["tea/__init__.py"], True, ["tea/__init__.py"]),
        (["tea/__init__.py"], False, ["__init__.py"]),
    ],
)
def test_the_only_folder_of_a_zip_file_is_stripped(
    packing: Packing, names: list[str], as_modules: bool, kept: list[str]
) -> None:
    body = zip_of(dict.fromkeys(names, ""))
    archive = packing.archive(body, "x.zip", strip=True, as_modules=as_modules)
    assert names_in(archive) == kept


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_a_zip_file_with_tricks_is_refused(packing: Packing, name: str) -> None:
    with pytest.raises(ValueError, match=r"x\.zip cannot be sent: .*evil"):
        packing.archive(zip_of({name: ""}), "x.zip")


def test_what_is_no_zip_file_is_refused(packing: Packing) -> None:
    with pytest.raises(ValueError, match=r"x\.zip cannot be sent: it is no ZIP file"):
        packing.archive(b"no", "x.zip")


def test_a_bomb_is_refused_before_it_goes_off(packing: Packing) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(LIMIT_BYTES * 21))
    with pytest.raises(ValueError, match=r"unpacks to more than 2\.0 MB"):
        packing.archive(file.getvalue(), "x.zip")


def test_a_wheel_is_laid_out_as_if_it_were_installed(packing: Packing) -> None:
    body = zip_of(
        {
            "tea/__init__.py": "",
            "tea-1.dist-info/WHEEL": "",
            "tea-1.data/purelib/cup.py": "",
            "tea-1.data/platlib/pot/x.so": "",
            "tea-1.data/scripts/brew": "",
        }
    )
    assert names_in(packing.wheel(body, "tea.whl")) == [
        "cup.py",
        "pot/x.so",
        "tea-1.dist-info/WHEEL",
        "tea/__init__.py",
    ]


def test_what_is_no_wheel_is_refused(packing: Packing) -> None:
    with pytest.raises(ValueError, match=r"tea\.whl is not a wheel"):
        packing.wheel(zip_of({"tea.py": ""}), "tea.whl")


# -- local code --------------------------------------------------------------------------------


def test_a_local_package_travels_as_a_whole(tmp_path: Path, packing: Packing) -> None:
    folder = write(tmp_path / "src", "__init__.py", "late.py", "data.json", "x.log", ".gitignore")
    (folder / ".gitignore").write_text("*.log")
    names = names_in(packing.local(Local(folder, "tea"), (), ()))
    assert names == ["tea/", "tea/.gitignore", "tea/__init__.py", "tea/data.json", "tea/late.py"]


def test_a_loaded_module_travels_though_git_ignores_it(
    tmp_path: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "tea", "__init__.py", "_version.py", "other.so", ".gitignore")
    (folder / ".gitignore").write_text("_version.py\n*.so")
    version = ModuleType("tea._version")
    version.__file__ = str(folder / "_version.py")
    monkeypatch.setitem(sys.modules, "tea._version", version)
    names = names_in(packing.local(Local(folder, "tea"), (), ()))
    assert "tea/_version.py" in names
    assert "tea/other.so" not in names


def test_beside_the_script_lie_modules_and_packages(tmp_path: Path, packing: Packing) -> None:
    write(tmp_path, "main.py", "helper.py", "data.csv", "notes/x.py", "big/data.bin")
    write(tmp_path / "pack", "__init__.py", "deep/a.py", "data.csv")
    write(tmp_path / "known", "__init__.py")
    archive = packing.local(Local(tmp_path, beside=True), (), [tmp_path / "known"])
    assert names_in(archive) == [
        "helper.py",
        "main.py",
        "pack/__init__.py",
        "pack/deep/a.py",
    ]


def test_what_cannot_be_read_was_not_imported_and_stays(
    tmp_path: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "main.py", "of_others.py")
    readable = os.access
    # As everything is to the user that tests often run as.
    monkeypatch.setattr(
        os, "access", lambda path, mode: path.name != "of_others.py" and readable(path, mode)
    )
    assert names_in(packing.local(Local(tmp_path, beside=True), (), ())) == ["main.py"]


def test_a_loose_module_travels_under_its_name(tmp_path: Path, packing: Packing) -> None:
    path = write(tmp_path, "odd-7.py") / "odd-7.py"
    archive = packing.local(Local(tmp_path, modules={"plugin.py": path}), (), ())
    assert names_in(archive) == ["plugin.py"]
