from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudray.folders import PrivateFolder, sweep

ROOT = Path(__file__).parents[2]
#: Makes a folder, says so, and lives until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from cloudray.folders import PrivateFolder
folder = PrivateFolder(Path(sys.argv[1]), "test-")
(folder.path / "file").write_text("content")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[PrivateFolder]:
    folder = PrivateFolder(tmp_path, "test-")
    yield folder
    folder.remove()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        yield process
        process.kill()


def folder_of(holder: subprocess.Popen[str]) -> Path:
    assert holder.stdout is not None
    return Path(holder.stdout.readline().strip())


def test_only_its_user_can_enter_a_folder(folder: PrivateFolder) -> None:
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_two_folders_of_one_process_differ(folder: PrivateFolder, tmp_path: Path) -> None:
    other = PrivateFolder(tmp_path, "test-")
    assert other.path != folder.path
    other.remove()


def test_a_removed_folder_is_gone_with_its_content(folder: PrivateFolder) -> None:
    (folder.path / "below").mkdir()
    (folder.path / "below" / "file").touch()
    folder.remove()
    assert not folder.path.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(folder.lock)


def test_a_folder_can_be_removed_twice(folder: PrivateFolder) -> None:
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


def test_a_live_folder_is_not_swept(folder: PrivateFolder, tmp_path: Path) -> None:
    sweep(tmp_path, "test-")
    assert folder.path.is_dir()


def test_the_folder_of_another_live_process_is_not_swept(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    path = folder_of(holder)
    sweep(tmp_path, "test-")
    assert (path / "file").read_text() == "content"


def test_a_folder_whose_process_was_killed_is_swept(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    path = folder_of(holder)
    holder.kill()
    holder.wait()
    assert path.is_dir()
    sweep(tmp_path, "test-")
    assert not path.exists()


def test_the_next_folder_that_is_made_sweeps(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    path = folder_of(holder)
    holder.kill()
    holder.wait()
    PrivateFolder(tmp_path, "test-").remove()
    assert not path.exists()


def test_a_child_that_has_the_lock_keeps_the_folder(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path, "test-")
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[folder.lock],
    ) as child:
        os.close(folder.lock)
        sweep(tmp_path, "test-")
        assert folder.path.is_dir()
        child.kill()
        child.wait()
        sweep(tmp_path, "test-")
        assert not folder.path.exists()


def test_a_folder_with_another_name_is_let_alone(tmp_path: Path) -> None:
    for name in ("other-1", "test-nothing-of-ours"):
        (tmp_path / name).mkdir()
    (tmp_path / "other-1" / "lock").touch()
    sweep(tmp_path, "test-")
    assert (tmp_path / "other-1").is_dir()
    assert (tmp_path / "test-nothing-of-ours").is_dir()


def test_a_folder_that_is_being_made_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def open_and_be_swept(*args: Any, **options: Any) -> int:
        monkeypatch.undo()
        descriptor = opened(*args, **options)
        sweep(tmp_path, "test-")
        return descriptor

    monkeypatch.setattr(os, "open", open_and_be_swept)
    folder = PrivateFolder(tmp_path, "test-")
    assert (folder.path / "lock").exists()
    folder.remove()
