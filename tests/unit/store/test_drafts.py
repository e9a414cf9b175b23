from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudray.store.drafts import is_alive, make, new_name, pid_in, scan, size_in, unwritten_bytes


def test_a_name_says_whose_the_file_is_and_how_large() -> None:
    name = new_name(12345)
    assert (pid_in(name), size_in(name)) == (os.getpid(), 12345)


def test_no_two_names_are_the_same() -> None:
    assert len({new_name(1) for _ in range(100)}) == 100


def test_a_file_that_is_made_is_empty_and_its_user_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert make(str(path))
    assert path.stat().st_size == 0
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_is_never_made_twice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError):
        make(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_where_there_is_no_room_even_for_an_empty_file_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", full)
    assert not make(str(tmp_path / "file"))


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list(scan(str(tmp_path / "missing"))) == []
    assert list(scan(str(tmp_path / "file"))) == []


def test_what_is_promised_and_not_written_yet_is_unwritten(tmp_path: Path) -> None:
    (tmp_path / "1-0-8192").write_bytes(bytes(4096))
    (tmp_path / "1-1-100000").touch()
    # One whose pages are written again may have more than it needs.
    (tmp_path / "1-2-100").write_bytes(bytes(8192))
    assert unwritten_bytes(str(tmp_path)) == 4096 + 100_000


def test_a_process_is_alive_until_it_has_ended() -> None:
    assert is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not is_alive(process.pid)


def test_a_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(1)
