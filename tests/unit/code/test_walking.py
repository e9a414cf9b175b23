"""What of a folder travels, and what stays at home."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from cloudray.code.walking import UnreadableError, walk


def tree(root: Path, *names: str, **contents: str) -> Path:
    """Files of these names (folders end with a slash), and ignore files with these contents."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    for name, content in contents.items():
        (root / name.replace("__", "/").replace("_", ".", 1)).write_text(content)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names_in(root: Path, *excludes: str) -> list[str]:
    return [found.name for found in walk(root, excludes).files]


def test_all_files_travel_in_the_order_of_their_names(tmp_path: Path) -> None:
    tree(tmp_path, "b.py", "a/c.py", "a.py", "a/data.csv", ".env")
    assert names_in(tmp_path) == [".env", "a.py", "a/c.py", "a/data.csv", "b.py"]


def test_what_is_never_code_stays(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", ".git/HEAD", "b/.git/config", "c/__pycache__/a.pyc", "d.pyc")
    tree(tmp_path, "env/pyvenv.cfg", "env/lib/x.py", "node_modules/x.js", ".venv/x", "e/.hg/x")
    assert names_in(tmp_path) == ["a.py"]


def test_the_history_stays_whatever_anybody_says(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", ".git/config")
    write(tmp_path / ".gitignore", "!.git/\n!.git/**\n")
    assert names_in(tmp_path, "!.git", "!.git/**") == [".gitignore", "a.py"]


def test_a_submodules_pointer_stays_too(tmp_path: Path) -> None:
    tree(tmp_path, "sub/.git", "sub/a.py")
    assert names_in(tmp_path) == ["sub/a.py"]


@pytest.mark.parametrize("name", [".gitignore", ".rayignore", ".cloudrayignore"])
def test_what_an_ignore_file_names_stays(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "a.py", "big.bin", "data/x.csv", "sub/data/y.csv", "sub/big.bin")
    write(tmp_path / name, "# a comment\n*.bin\n/data/\n")
    assert names_in(tmp_path) == [name, "a.py", "sub/data/y.csv"]


def test_an_ignore_file_below_holds_below_and_wins(tmp_path: Path) -> None:
    tree(tmp_path, "a.log", "sub/a.log", "sub/keep.log", "sub/b.txt", "b.txt")
    write(tmp_path / ".gitignore", "*.log\n")
    write(tmp_path / "sub/.gitignore", "!keep.log\n*.txt\n")
    found = [name for name in names_in(tmp_path) if "ignore" not in name]
    assert found == ["b.txt", "sub/keep.log"]


def test_the_ignore_files_of_the_repository_above_hold_too(tmp_path: Path) -> None:
    tree(tmp_path, ".git/HEAD", "app/a.py", "app/a.ckpt", "app/out/x")
    write(tmp_path / ".gitignore", "*.ckpt\n/app/out/\n")
    assert names_in(tmp_path / "app") == ["a.py"]


def test_ignore_files_above_a_repository_do_not(tmp_path: Path) -> None:
    tree(tmp_path, "app/.git/HEAD", "app/a.py")
    write(tmp_path / ".gitignore", "*.py\n")
    assert names_in(tmp_path / "app") == ["a.py"]


def test_who_asks_for_an_ignored_folder_gets_it(tmp_path: Path) -> None:
    tree(tmp_path, ".git/HEAD", "build/a.py", "build/x/b.py")
    write(tmp_path / ".gitignore", "build/\n")
    assert names_in(tmp_path / "build") == ["a.py", "x/b.py"]


def test_excludes_are_patterns_too_and_come_first(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "data/x.csv", "model.bin", "tests/t.py", "node_modules/m.js")
    write(tmp_path / ".gitignore", "*.bin\n")
    found = names_in(tmp_path, "data/", "tests", "!model.bin", "!node_modules/")
    assert found == [".gitignore", "a.py", "model.bin", "node_modules/m.js"]


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="excludes"):
        names_in(tmp_path, "!")


def test_folders_without_files_travel(tmp_path: Path) -> None:
    tree(tmp_path, "empty/deep/", "full/a.py", "ignored/x.pyc")
    assert walk(tmp_path).empty == ("empty/deep", "ignored")


def test_a_link_stands_for_what_it_leads_to(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "a.py", "sub/b.py")
    tree(tmp_path, "elsewhere/c.py", "other.py")
    (root / "file.py").symlink_to(tmp_path / "other.py")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    found = walk(root)
    assert [one.name for one in found.files] == ["a.py", "file.py", "folder/c.py", "sub/b.py"]


def test_links_in_circles_and_to_nowhere_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "sub/b.py")
    (tmp_path / "sub/up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "nowhere").symlink_to("gone")
    assert names_in(tmp_path) == ["a.py", "sub/b.py"]


def test_what_is_no_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.py")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert names_in(tmp_path) == ["a.py"]


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.py", "secret.txt", "ignored.bin")
    write(tmp_path / ".gitignore", "*.bin\n")
    readable = os.access

    def access(path: Path, mode: int) -> bool:
        return path.suffix not in {".txt", ".bin"} and readable(path, mode)

    # As everything is to the user that tests often run as.
    monkeypatch.setattr(os, "access", access)
    with pytest.raises(UnreadableError, match=r"secret\.txt \(Permission denied\)\. Make") as info:
        walk(tmp_path)
    assert "ignored.bin" not in str(info.value)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "a.py", "closed/b.py")
    scan = os.scandir

    def scandir(path: Path) -> contextlib.AbstractContextManager[object]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UnreadableError, match=r"closed \(Permission denied\)"):
        walk(tmp_path)


def test_only_what_is_wanted_travels(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "b.csv", "pkg/c.py", "pkg/d.csv", "other/e.py")
    found = walk(
        tmp_path,
        wanted=lambda path: path.suffix == ".py",
        only=frozenset({tmp_path / "pkg"}),
    )
    assert [one.name for one in found.files] == ["a.py", "pkg/c.py"]
    assert found.empty == ()


def test_what_always_travels_does_so_though_it_is_ignored(tmp_path: Path) -> None:
    tree(tmp_path, "_version.py", "gen/x/built.so", "gen/y.py", "other.so")
    write(tmp_path / ".gitignore", "_version.py\n*.so\ngen/\n")
    always = frozenset({str(tmp_path / "_version.py"), str(tmp_path / "gen/x/built.so")})
    found = [one.name for one in walk(tmp_path, always=always).files]
    assert found == [".gitignore", "_version.py", "gen/x/built.so"]
