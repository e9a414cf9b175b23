"""Makes a Linux process look like one on macOS, or on Windows, as far as Python can tell.

To be called before anything else is imported: `switch` writes a `sitecustomize` that does so in
a whole family of processes, by way of PYTHONPATH. The package itself knows nothing of it.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]

#: What Python's modules have on Linux and not on macOS.
ABSENT_ON_MACOS: Mapping[ModuleType, tuple[str, ...]] = {
    os: (
        "O_DIRECT",
        "O_LARGEFILE",
        "O_NOATIME",
        "O_PATH",
        "O_RSYNC",
        "O_TMPFILE",
        "copy_file_range",
        "eventfd",
        "fdatasync",
        "getrandom",
        "getresgid",
        "getresuid",
        "memfd_create",
        "pidfd_open",
        "pipe2",
        "posix_fadvise",
        "posix_fallocate",
        "sched_getaffinity",
        "sched_setaffinity",
        "setresgid",
        "setresuid",
        "setxattr",
        "splice",
        # Only since 3.13 there.
        "waitid",
    ),
    select: ("epoll",),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    socket: (
        "AF_NETLINK",
        "AF_VSOCK",
        "MSG_NOSIGNAL",
        "SOCK_CLOEXEC",
        "SOCK_NONBLOCK",
        "SOCK_SEQPACKET",
        "SO_PEERCRED",
        "SO_PASSCRED",
    ),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI", "pthread_getcpuclockid"),
}
#: Folders that only Linux has.
ABSENT_FOLDERS_ON_MACOS = ("/proc", "/dev/shm", "/sys")
#: What Python's modules have on Unix and not on Windows.
ABSENT_ON_WINDOWS: Mapping[ModuleType, tuple[str, ...]] = {
    os: (
        "O_CLOEXEC",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "fchmod",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getpgid",
        "getpgrp",
        "getuid",
        "killpg",
        "mkfifo",
        "openpty",
        "posix_spawn",
        "pread",
        "preadv",
        "pwrite",
        "readv",
        "register_at_fork",
        "sched_yield",
        "sendfile",
        "setpgid",
        "setsid",
        "statvfs",
        "sync",
        "sysconf",
        "uname",
        "wait",
        "waitid",
        "writev",
    ),
    select: ("epoll", "poll"),
    signal: (
        "SIGALRM",
        "SIGCHLD",
        "SIGHUP",
        "SIGKILL",
        "SIGPIPE",
        "SIGUSR1",
        "SIGUSR2",
        "SIGWINCH",
        "pthread_kill",
        "pthread_sigmask",
        "setitimer",
    ),
    socket: ("AF_UNIX", "MSG_DONTWAIT", "recv_fds", "send_fds"),
    time: ("clock_gettime", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "tzset"),
}
#: Modules of the standard library, and one of ours, that Windows lacks.
ABSENT_MODULES_ON_WINDOWS = (
    "_posixshmem",
    "fcntl",
    "grp",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
    "uvloop",
)


def switch(folder: Path, system: str) -> dict[str, str]:
    """Variables under which a Python process and its children see that `system`."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"from tests.compat import switching\nswitching.become_{system}()\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def become_macos() -> None:
    """Take away what macOS lacks, and give what it has instead."""
    pidfd_open = os.pidfd_open
    _remove(ABSENT_ON_MACOS)
    _give_kqueue(pidfd_open)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"open", "os.listdir", "os.scandir", "os.mkdir", "os.chdir"}:
            path = arguments[0]
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if isinstance(path, str) and _is_under(path, ABSENT_FOLDERS_ON_MACOS):
                raise FileNotFoundError(2, "there is no such folder on macOS", path)
        elif event == "ctypes.dlsym" and arguments[1] == "prctl":
            raise AttributeError("there is no prctl on macOS")

    sys.addaudithook(refuse)
    _load_platform_as("darwin")


def become_windows() -> None:
    """Take away what Windows lacks."""
    tcp_pair = _tcp_pair_maker()
    _remove(ABSENT_ON_WINDOWS)
    for name in ABSENT_MODULES_ON_WINDOWS:
        sys.modules[name] = None  # type: ignore[assignment] # which makes importing it fail
    socket.socketpair = tcp_pair  # type: ignore[assignment] # as Python has it there
    select.select = _only_sockets(select.select)
    given: Any = selectors
    given.DefaultSelector = selectors.SelectSelector
    _load_platform_as("win32")


def _remove(absent: Mapping[ModuleType, Iterable[str]]) -> None:
    for module, names in absent.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)


def _is_under(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _load_platform_as(system: str) -> None:
    """Let the package's own module look at another `sys.platform`; nobody else."""
    here = sys.platform
    sys.platform = system
    try:
        import cloudray.platform  # noqa: F401
    finally:
        sys.platform = here


def _give_kqueue(pidfd_open: Callable[[int], int]) -> None:
    """A `kqueue` that can tell of the end of a process, and nothing else."""

    class Kqueue:
        def control(self, changes: list[Any], max_events: int, timeout: float | None) -> list[Any]:
            assert (len(changes), max_events, timeout) == (1, 1, None)
            descriptor = pidfd_open(changes[0].ident)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
            return changes

        def close(self) -> None:
            pass

    def kevent(ident: int, *, filter: int, flags: int, fflags: int) -> SimpleNamespace:  # noqa: A002
        assert (filter, flags, fflags) == (-5, 1, 1 << 31)
        return SimpleNamespace(ident=ident)

    given: Any = select
    given.kqueue, given.kevent = Kqueue, kevent
    given.KQ_FILTER_PROC, given.KQ_EV_ADD, given.KQ_NOTE_EXIT = -5, 1, 1 << 31


def _tcp_pair_maker() -> Callable[[], tuple[socket.socket, socket.socket]]:
    def pair() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        return server, client

    return pair


def _only_sockets(real: Callable[..., Any]) -> Callable[..., Any]:
    """As on Windows, where no other descriptor can be waited for."""

    def select_sockets(*descriptors: Any) -> Any:
        for descriptor in (one for some in descriptors[:3] for one in some):
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            with socket.socket(fileno=os.dup(number)):
                pass  # raises for what is no socket
        return real(*descriptors)

    return select_sockets
