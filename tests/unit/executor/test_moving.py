"""Where an executor looks for modules, and where it works."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from cloudray.executor.moving import move_in
from cloudray.protocol import messages as m
from cloudray.protocol.records import Job
from cloudray.store.room import RoomSpec

INSTALLED = ["/python/lib", "/python/site-packages"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(INSTALLED))
    return tmp_path


def setup(
    *,
    sys_path: tuple[str, ...] = (),
    cwd: str = "/not/here",
    host: str | None = None,
    path: tuple[str, ...] = (),
    working_dir: str = "",
) -> m.Setup:
    host = socket.gethostname() if host is None else host
    job = Job(b"j" * 10, "3.11", host, 1, 0.0, sys_path, cwd)
    return m.Setup(job, 7, "node", RoomSpec("/room"), "", working_dir=working_dir, path=path)


def test_what_came_along_is_found_before_what_the_driver_has() -> None:
    move_in(setup(path=("/code/a", "/code/b"), sys_path=("/app", "/code/b")))
    assert sys.path == ["/code/a", "/code/b", "/app", *INSTALLED]


def test_what_the_driver_has_is_found_before_what_is_installed() -> None:
    move_in(setup(sys_path=("/app", "/python/lib", "/lib", "/app")))
    assert sys.path == ["/app", "/lib", *INSTALLED]


def test_on_another_machine_the_drivers_folders_come_last_if_they_are_there(place: Path) -> None:
    move_in(setup(host="elsewhere", sys_path=("/nowhere", str(place)), path=("/code",)))
    assert sys.path == ["/code", *INSTALLED, str(place)]


def test_the_drivers_working_directory_is_the_tasks_where_it_is(place: Path) -> None:
    folder = place / "app"
    folder.mkdir()
    move_in(setup(cwd=str(folder)))
    assert os.getcwd() == str(folder)  # noqa: PTH109 - a text
    assert sys.path == [*INSTALLED, str(folder)]


def test_where_it_is_not_tasks_stay(place: Path) -> None:
    move_in(setup())
    assert os.getcwd() == str(place)  # noqa: PTH109 - a text


def test_a_working_directory_of_their_own_comes_first(place: Path) -> None:
    for name in ("app", "own"):
        (place / name).mkdir()
    move_in(setup(cwd=str(place / "app"), working_dir=str(place / "own")))
    assert os.getcwd() == str(place / "own")  # noqa: PTH109 - a text
    assert str(place / "app") not in sys.path
