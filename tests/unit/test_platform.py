from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudray import platform

ROOT = Path(__file__).parents[2]
#: A parent that starts a child which asks to die with it, and then waits to be killed.
PARENT = """
import os, sys
from cloudray.platform import die_with_parent
if os.fork() == 0:
    die_with_parent()
    print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def darwin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this is a Mac: nothing of Linux may be touched."""

    def refuse(*_: Any) -> None:
        raise AssertionError("prctl on a Mac")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "_prctl", refuse)


@pytest.fixture
def temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# -- folders -------------------------------------------------------------------------------


def test_embedded_clusters_live_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "_SHARED_MEMORY", tmp_path)
    assert platform.memory_folder() == tmp_path


def test_without_shared_memory_they_live_in_the_temporary_folder(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "_SHARED_MEMORY", temp_folder / "absent")
    assert platform.memory_folder() == temp_folder


def test_shared_memory_that_may_not_be_written_is_as_good_as_none(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "_SHARED_MEMORY", temp_folder / "read-only")
    (temp_folder / "read-only").mkdir()
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    assert platform.memory_folder() == temp_folder


def test_sockets_lie_in_the_users_runtime_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert platform.socket_folder() == tmp_path / "cloudray"
    assert platform.socket_folder().is_dir()


@pytest.mark.parametrize("runtime_folder", ["", "/nowhere/at/all"])
def test_without_a_runtime_folder_sockets_lie_where_only_the_user_can_enter(
    runtime_folder: str, temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_folder)
    folder = platform.socket_folder()
    assert folder == temp_folder / f"cloudray-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("temp_folder")
def test_a_folder_for_sockets_that_others_can_enter_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    platform.socket_folder().chmod(0o755)
    with pytest.raises(PermissionError, match=r"is not this user's alone.*Remove it"):
        platform.socket_folder()


def test_a_folder_for_sockets_that_is_somebody_elses_is_refused(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temp_folder))
    platform.socket_folder()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(PermissionError, match="set XDG_RUNTIME_DIR to a private folder"):
        platform.socket_folder()


# -- clocks --------------------------------------------------------------------------------


def test_the_clock_runs_through_suspend_where_the_system_has_one_that_does() -> None:
    clock = platform._monotonic_clock()
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before_s <= clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_elsewhere_it_is_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert platform._monotonic_clock() is time.monotonic


# -- processes -----------------------------------------------------------------------------


def test_a_process_that_asked_for_it_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        # The child holds the pipe too: it ends only with the child.
        assert parent.stdout.read() == b""


@pytest.mark.usefixtures("darwin")
def test_where_the_kernel_cannot_be_asked_nothing_is_asked() -> None:
    platform.die_with_parent()
    platform.name_process("cloudray-test")


def test_a_process_shows_the_name_that_it_was_given() -> None:
    program = (
        "from pathlib import Path; from cloudray.platform import name_process;"
        "name_process('cloudray-a-very-long-name'); print(Path('/proc/self/comm').read_text())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "cloudray-a-very"


def test_a_process_forks_cleanly_on_linux() -> None:
    assert platform.forks_cleanly() == (sys.platform == "linux")


@pytest.mark.usefixtures("darwin")
def test_a_process_does_not_fork_cleanly_on_a_mac() -> None:
    assert not platform.forks_cleanly()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def is_readable(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


@pytest.mark.parametrize("pidfd", [True, False])
def test_the_end_of_a_child_shows_in_a_descriptor(
    child: subprocess.Popen[bytes],
    pidfd: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    descriptor = platform.exit_descriptor(child.pid)
    assert not is_readable(descriptor, 0)
    child.kill()
    assert is_readable(descriptor, 60)
    os.close(descriptor)
    # Nobody has reaped it: its parent still hears how it ended.
    assert child.wait() == -9


# -- what there is -------------------------------------------------------------------------


def test_cpus_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert platform.cpu_count() == 3


@pytest.mark.parametrize(("counted", "expected"), [(8, 8), (None, 1)])
def test_where_nobody_says_which_cpus_may_be_used_all_are_counted(
    counted: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert platform.cpu_count() == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("max\n", 4096 * 1000), ("1024\n", 1024), ("99999999\n", 4096 * 1000)]
)
def test_memory_is_what_the_container_may_use(
    limit: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", counts.__getitem__)
    monkeypatch.setattr(Path, "read_text", lambda _: limit)
    assert platform.memory_bytes() == expected


def test_outside_a_container_memory_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> str:
        raise FileNotFoundError

    counts = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", counts.__getitem__)
    monkeypatch.setattr(Path, "read_text", fail)
    assert platform.memory_bytes() == 4096 * 1000
