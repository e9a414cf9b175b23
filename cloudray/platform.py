"""What differs between operating systems. Nothing else assumes Linux."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

if TYPE_CHECKING:
    import socket

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
#: The longest path of a Unix socket on macOS; Linux allows four more.
_SOCKET_PATH_BYTES = 103
#: The longest path of a socket below a base folder, but for the numbers of user and process:
#: `/cloudray-USER/agent-PROCESS-12345678/agent.sock`.
_BELOW_BASE_BYTES = 37
#: Where paths are short, if the system's temp folder is not.
_SHORT_TEMP = Path("/tmp")  # noqa: S108 - the name of the place, not a predictable file
#: Where files lie on disk, and survive until they are removed.
_DISK_TEMP = Path("/var/tmp")  # noqa: S108 - as _SHORT_TEMP
#: How many files a process should be allowed to open: as many as Linux lets it map.
_OPEN_FILES = 65_536


class Capabilities(NamedTuple):
    """What a system has that another one lacks, where that cannot be asked of Python's modules."""

    #: Unix sockets, process groups and inherited descriptors: what agents and executors live on
    unix: bool
    #: a folder whose files lie in memory
    shared_memory: Path | None
    #: a process can ask to die with its parent, and be shown under a name
    prctl: bool
    #: a process that has loaded little may fork others (the frameworks of macOS object)
    clean_forks: bool
    #: the clock that runs through suspend, by its name in `time`
    suspend_clock: str


def capabilities_of(system: str) -> Capabilities:
    """What the system has that `sys.platform` calls so."""
    linux = system == "linux"
    return Capabilities(
        unix=system != "win32",
        shared_memory=Path("/dev/shm") if linux else None,  # noqa: S108 - as _SHORT_TEMP
        prctl=linux,
        clean_forks=linux,
        suspend_clock="CLOCK_BOOTTIME" if linux else "CLOCK_MONOTONIC",
    )


#: Of the system that this process runs on.
capabilities = capabilities_of(sys.platform)


# -- folders -------------------------------------------------------------------------------


def memory_folder() -> Path:
    """Where embedded clusters live: shared memory where there is some, else the temp folder."""
    memory = capabilities.shared_memory
    if memory is not None and memory.is_dir() and os.access(memory, os.W_OK):
        return memory
    return _temp_folder()


def spill_folder() -> Path:
    """Where embedded clusters spill to disk: `/var/tmp`, for `/tmp` often lies in memory."""
    if _DISK_TEMP.is_dir() and os.access(_DISK_TEMP, os.W_OK):
        return _DISK_TEMP
    return _temp_folder()


def code_folder() -> Path:
    """Where agents of this user unpack code: in the user's cache if one is named, else on disk."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "cloudray" / "code"
    return spill_folder() / f"cloudray-code-{os.getuid()}"


def cache_folder() -> Path:
    """The user's cache, for what can be made again. It may not be there, nor be writable."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "cloudray"


def _temp_folder() -> Path:
    """The system's folder for temporary files, or one in which the paths of sockets fit."""
    import tempfile  # loads more than the rest of this module

    folder = Path(tempfile.gettempdir())
    if _has_room_for_sockets(folder) or not os.access(_SHORT_TEMP, os.W_OK):
        return folder
    return _SHORT_TEMP


def _has_room_for_sockets(base: Path) -> bool:
    numbers = f"{os.getuid()}{os.getpid()}"
    return len(os.fsencode(base)) + _BELOW_BASE_BYTES + len(numbers) <= _SOCKET_PATH_BYTES


def socket_folder() -> Path:
    """A folder for Unix sockets whose path is short and which only this user can enter.

    Raises `PermissionError` when somebody else made a folder of its name, or can enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK) and _has_room_for_sockets(Path(base)):
        folder = Path(base) / "cloudray"
    else:
        folder = _temp_folder() / f"cloudray-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder} is not this user's alone, so whoever else can enter it could run code as "
            "this user. Remove it, or set XDG_RUNTIME_DIR to a private folder."
        )
    return folder


def lock_file(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is unlocked, or closed by all who inherited it.

    The lock belongs to the open file, not to the process. When somebody else has it: waits for
    it, or returns False.
    """
    import fcntl  # which Windows lacks

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def share_lock(descriptor: int) -> bool:
    """Lock an open file together with others who share it; whether nobody holds it alone.

    Who holds it alone now shares it, after a moment in which it is not locked at all.
    """
    import fcntl  # which Windows lacks

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_file(descriptor: int) -> None:
    """Give a lock back, also for those who inherited the open file."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_used_by_others(descriptor: int) -> bool:
    """Whether anybody else, in whatever process, has this file open or still maps it.

    The kernel grants a write lease only on a file that nobody else has open, and a mapping keeps
    the file open whatever becomes of its descriptor. True where the system cannot tell. Whoever
    asks sees to it that the file has no name under which it could be opened meanwhile.
    """
    import fcntl  # which Windows lacks

    if not hasattr(fcntl, "F_SETLEASE"):
        return True
    try:
        # A stranger who opens it nevertheless must not end this process by a signal.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def raise_file_limit() -> None:
    """Let this process, and what it starts, open many files, as far as it may allow itself."""
    try:
        import resource  # which Windows lacks
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has further limits, and says so.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# -- clocks --------------------------------------------------------------------------------


def _monotonic_clock() -> Callable[[], float]:
    clock = getattr(time, capabilities.suspend_clock, None)
    return time.monotonic if clock is None else partial(time.clock_gettime, clock)


#: Seconds on a clock that runs through suspend where the system has one.
monotonic_s = _monotonic_clock()


# -- processes -----------------------------------------------------------------------------


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, where it can be asked."""
    if capabilities.prctl:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Show this name in `ps` and `top`, where that can be set; at most 15 characters count."""
    if capabilities.prctl:
        _prctl(_PR_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end, where that can be asked for.

    So daemons that tasks start stay within reach, whatever groups and sessions they lead.
    """
    if capabilities.prctl:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The children of this process, ended ones too, which has a single thread; Linux only."""
    me = os.getpid()
    try:
        return {int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()}
    except OSError:
        return set()


def _prctl(option: int, value: int | bytes) -> None:
    import ctypes  # only executors need it, and only on Linux

    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def forks_cleanly() -> bool:
    """Whether a process that has loaded little may fork others (macOS frameworks object)."""
    return capabilities.clean_forks


def end_group(pid: int) -> None:
    """Kill a process that leads a group, with whatever it has started; nobody has reaped it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except PermissionError:
        # So macOS says of a group whose members have all ended.
        return
    except ProcessLookupError:
        # It has not come so far as to lead a group of its own, and has started nothing.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_own_group() -> NoReturn:
    """Die, with whatever this process has started, if it leads a group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _nothing() -> None:
    pass


def on_fork(
    in_child: Callable[[], object],
    *,
    before: Callable[[], object] = _nothing,
    in_parent: Callable[[], object] = _nothing,
) -> None:
    """Have these called whenever Python forks this process, where it can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def exit_descriptor(pid: int) -> int:
    """A descriptor that turns readable when this child has ended; the caller closes it.

    Nobody has reaped the child by then.
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    await_exit = _kqueue_exit if hasattr(select, "kqueue") else _wait_exit
    readable, writable = os.pipe()

    def wait() -> None:
        await_exit(pid)
        os.close(writable)

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()
    return readable


def _wait_exit(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _kqueue_exit(pid: int) -> None:
    """As `_wait_exit`; Python has `waitid` on macOS only since 3.13."""
    kernel: Any = select  # whose names depend on the system
    queue = kernel.kqueue()
    ends = kernel.kevent(
        pid, filter=kernel.KQ_FILTER_PROC, flags=kernel.KQ_EV_ADD, fflags=kernel.KQ_NOTE_EXIT
    )
    try:
        queue.control([ends], 1, None)
    except ProcessLookupError:
        # It has ended already.
        return
    finally:
        queue.close()


# -- sockets -------------------------------------------------------------------------------


#: What a `Poller` is asked to wait for.
READABLE: int = getattr(select, "POLLIN", 1)


class Poller(Protocol):
    """Waits for descriptors, as `select.poll` does."""

    def register(self, fd: Any, eventmask: int, /) -> None:
        """Wait for this one too."""

    def unregister(self, fd: Any, /) -> None:
        """No longer wait for it."""

    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]:
        """Wait for at most so many milliseconds; returns descriptors with what they are."""


def poller() -> Poller:
    """The fastest way to wait for a few descriptors."""
    return select.poll() if hasattr(select, "poll") else _Selecting()


class _Selecting:
    """A `Poller` where there is none; only sockets, and only to be read."""

    def __init__(self) -> None:
        self._descriptors: set[int] = set()

    def register(self, fd: Any, eventmask: int, /) -> None:
        del eventmask
        self._descriptors.add(fd if isinstance(fd, int) else fd.fileno())

    def unregister(self, fd: Any, /) -> None:
        self._descriptors.remove(fd if isinstance(fd, int) else fd.fileno())

    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]:
        timeout_s = None if timeout is None else timeout / 1000
        ready, _, _ = select.select(list(self._descriptors), [], [], timeout_s)
        return [(descriptor, READABLE) for descriptor in ready]


def unix_socket() -> socket.socket:
    """A stream socket for processes of this machine.

    Raises OSError where the system has none.
    """
    import socket

    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep messages apart and tell of each other's end.

    Only for processes that fork cleanly: macOS has none like these.
    """
    import socket

    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


# -- what there is -------------------------------------------------------------------------


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory, or what a container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
    except OSError:
        return total
    return min(total, int(limit)) if limit.strip().isdecimal() else total
