from __future__ import annotations

import os
import resource
import select
import socket
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
from tests.compat.switching import switch

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


def without(monkeypatch: pytest.MonkeyPatch, **capabilities: Any) -> None:
    """Pretend that this system has other capabilities."""
    monkeypatch.setattr(platform, "capabilities", platform.capabilities._replace(**capabilities))


@pytest.fixture
def darwin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this is a Mac: nothing of Linux may be touched."""

    def refuse(*_: Any) -> None:
        raise AssertionError("prctl on a Mac")

    monkeypatch.setattr(platform, "capabilities", platform.capabilities_of("darwin"))
    monkeypatch.setattr(platform, "_prctl", refuse)


@pytest.fixture
def temp_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's folder for temporary files; its path is short."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(folder)


# -- folders -------------------------------------------------------------------------------


def test_embedded_clusters_live_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, shared_memory=tmp_path)
    assert platform.memory_folder() == tmp_path


@pytest.mark.usefixtures("darwin")
def test_without_shared_memory_they_live_in_the_temporary_folder(temp_folder: Path) -> None:
    assert platform.memory_folder() == temp_folder


def test_shared_memory_that_is_not_there_is_as_good_as_none(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, shared_memory=temp_folder / "absent")
    assert platform.memory_folder() == temp_folder


def test_shared_memory_that_may_not_be_written_is_as_good_as_none(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, shared_memory=temp_folder / "read-only")
    (temp_folder / "read-only").mkdir()
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    assert platform.memory_folder() == temp_folder


def test_what_goes_to_disk_lies_where_temporary_files_outlive_a_restart() -> None:
    assert platform.spill_folder() == Path("/var/tmp")


def test_without_such_a_place_it_lies_with_other_temporary_files(
    monkeypatch: pytest.MonkeyPatch, temp_folder: Path
) -> None:
    monkeypatch.setattr(platform, "_DISK_TEMP", temp_folder / "missing")
    assert platform.spill_folder() == temp_folder


@pytest.mark.usefixtures("darwin")
def test_a_temporary_folder_in_which_no_socket_fits_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{'long' * 25}")
    assert platform.memory_folder() == Path("/tmp")


@pytest.mark.parametrize(
    "made",
    [
        "cloudray-{user}/agent-{pid}-12345678/agent.sock",
        "cloudray-{user}-{pid}-12345678/12345678.sock",
    ],
)
def test_where_the_longest_folder_ends_a_socket_can_be_bound(made: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        base = Path(short) / "x"
        while platform._has_room_for_sockets(base.with_name(f"{base.name}x")):
            base = base.with_name(f"{base.name}x")
        path = base / made.format(user=os.getuid(), pid=os.getpid())
        assert len(os.fsencode(path)) <= 103
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))


def test_sockets_lie_in_the_users_runtime_folder(
    temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temp_folder))
    assert platform.socket_folder() == temp_folder / "cloudray"
    assert platform.socket_folder().is_dir()


@pytest.mark.parametrize("runtime_folder", ["", "/nowhere/at/all", "/tmp/" + "long" * 25])
def test_without_a_runtime_folder_sockets_lie_where_only_the_user_can_enter(
    runtime_folder: str, temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_folder)
    if runtime_folder.endswith("long"):
        monkeypatch.setattr(os, "access", lambda *_: True)
    folder = platform.socket_folder()
    assert folder == temp_folder / f"cloudray-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("temp_folder")
def test_a_folder_for_sockets_that_others_can_enter_is_refused() -> None:
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


def test_a_file_is_locked_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert platform.lock_file(first)
    assert not platform.lock_file(second)
    os.close(first)
    assert platform.lock_file(second)
    os.close(second)


# -- clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (256, 4096, 4096),
        (256, 1 << 20, 65_536),
        (1024, resource.RLIM_INFINITY, 65_536),
        (4096, 4096, None),
        (1 << 20, 1 << 20, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_a_process_may_open_as_many_files_as_is_sensible(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    platform.raise_file_limit()
    assert limits == ([] if raised is None else [(raised, hard)])


def test_a_limit_that_the_system_refuses_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1 << 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    platform.raise_file_limit()


def test_the_clock_runs_through_suspend_where_the_system_has_one_that_does() -> None:
    clock = platform._monotonic_clock()
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before_s <= clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.usefixtures("darwin")
def test_on_a_mac_the_monotonic_clock_of_the_kernel_does() -> None:
    clock = platform._monotonic_clock()
    before_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert before_s <= clock() <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_where_there_is_none_it_is_pythons_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, suspend_clock="CLOCK_OF_NOBODY")
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


def ends_in_a_descriptor(child: subprocess.Popen[bytes]) -> bool:
    descriptor = platform.exit_descriptor(child.pid)
    try:
        assert not is_readable(descriptor, 0)
        child.kill()
        assert is_readable(descriptor, 60)
    finally:
        os.close(descriptor)
    # Nobody has reaped it: its parent still hears how it ended.
    return child.wait() == -9


@pytest.mark.parametrize("pidfd", [True, False])
def test_the_end_of_a_child_shows_in_a_descriptor(
    child: subprocess.Popen[bytes],
    pidfd: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    assert ends_in_a_descriptor(child)


def test_the_end_of_a_child_shows_in_a_descriptor_where_only_a_kqueue_tells(tmp_path: Path) -> None:
    program = """
import subprocess, sys
from tests.unit.test_platform import ends_in_a_descriptor
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    print(ends_in_a_descriptor(child))
"""
    variables = os.environ | switch(tmp_path, "macos")
    assert subprocess.check_output([sys.executable, "-c", program], env=variables, text=True) == (
        "True\n"
    )


class Kqueue:
    """A kqueue that knows no process."""

    closed = False

    def control(self, *_: object) -> None:
        raise ProcessLookupError

    def close(self) -> None:
        Kqueue.closed = True


def test_a_child_that_has_ended_already_shows_in_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(select, "kqueue", Kqueue, raising=False)
    monkeypatch.setattr(select, "kevent", lambda *_, **__: None, raising=False)
    for name in ("KQ_FILTER_PROC", "KQ_EV_ADD", "KQ_NOTE_EXIT"):
        monkeypatch.setattr(select, name, 0, raising=False)
    descriptor = platform.exit_descriptor(1)
    assert is_readable(descriptor, 60)
    os.close(descriptor)
    assert Kqueue.closed


def test_the_end_of_a_group_is_the_end_of_all_in_it() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        assert leader.stdin is not None
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"1\n"
        platform.end_group(leader.pid)
        # Both hold the pipe: it ends only with the last of them.
        assert leader.stdout.read() == b""
        assert leader.wait() == -9


def test_a_process_that_leads_no_group_ends_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        platform.end_group(process.pid)
        assert process.wait() == -9


@pytest.mark.parametrize("said", [ProcessLookupError, PermissionError])
def test_a_group_that_has_ended_already_is_no_mistake(
    said: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise said

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(os, "kill", refuse)
    platform.end_group(1)


# -- sockets -------------------------------------------------------------------------------


@pytest.fixture(params=["poll", "select"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> platform.Poller:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    return platform.poller()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_poller_tells_what_can_be_read(
    poller: platform.Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    poller.register(ours, platform.READABLE)
    assert poller.poll(0) == []
    theirs.send(b"x")
    assert poller.poll(60_000) == [(ours.fileno(), platform.READABLE)]
    poller.unregister(ours.fileno())
    assert poller.poll(0) == []


def test_the_end_of_a_connection_can_be_read(
    poller: platform.Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    poller.register(ours.fileno(), platform.READABLE)
    theirs.close()
    ((descriptor, _),) = poller.poll(None)
    assert descriptor == ours.fileno()


def test_where_there_are_no_unix_sockets_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="no Unix sockets"):
        platform.unix_socket()


def test_a_message_pair_keeps_messages_apart() -> None:
    ours, theirs = platform.message_pair()
    with ours:
        with theirs:
            theirs.send(b"one")
            theirs.send(b"two")
        assert [ours.recv(100) for _ in range(3)] == [b"one", b"two", b""]


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
