from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudray import platform
from cloudray.folders import PrivateFolder, remove, sweep

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


def unfinished(base: Path, *, old: bool, lock: bool) -> Path:
    """A folder as somebody leaves it who is killed while making it."""
    hidden = base / f".test-{os.urandom(4).hex()}"
    hidden.mkdir()
    if lock:
        (hidden / "lock").touch()
    if old:
        os.utime(hidden, (0, 0))
    return hidden


@pytest.mark.parametrize("lock", [True, False])
def test_a_folder_that_was_never_finished_is_swept_after_a_while(
    tmp_path: Path, lock: bool
) -> None:
    old, new = (unfinished(tmp_path, old=old, lock=lock) for old in (True, False))
    sweep(tmp_path, "test-")
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_is_being_made_for_long_is_not_swept(tmp_path: Path) -> None:
    hidden = unfinished(tmp_path, old=True, lock=True)
    with (hidden / "lock").open("r+") as held:
        os.utime(hidden, (0, 0))
        assert platform.lock_file(held.fileno())
        sweep(tmp_path, "test-")
        assert hidden.exists()


@pytest.mark.parametrize("fails", ["mkdir", "rename"])
def test_a_folder_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, fail)
        with pytest.raises(PermissionError):
            PrivateFolder(tmp_path, "test-")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_folder_goes_last(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-file", "z-file"):
        (folder.path / name).touch()
    with monkeypatch.context() as patch:
        # As if it were killed between the two steps.
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        remove(folder.path)
    assert [path.name for path in folder.path.iterdir()] == ["lock"]


def test_removing_a_folder_leaves_what_a_link_in_it_leads_to(
    folder: PrivateFolder, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "link").symlink_to(tmp_path / "elsewhere")
    folder.remove()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_folder_that_is_forgotten_stays_for_those_who_use_it(folder: PrivateFolder) -> None:
    lock = folder.lock
    folder.forget()
    folder.forget()
    assert folder.path.is_dir()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)
