"""What differs between operating systems. Nothing else assumes Linux."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the name of the place, not a predictable file
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def memory_folder() -> Path:
    """Where embedded clusters live: shared memory where there is some, else the temp folder."""
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
        return _SHARED_MEMORY
    return _temp_folder()


def _temp_folder() -> Path:
    import tempfile  # loads more than the rest of this module

    return Path(tempfile.gettempdir())


def socket_folder() -> Path:
    """A folder for Unix sockets whose path is short and which only this user can enter.

    Raises `PermissionError` when somebody else made a folder of its name, or can enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
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


def _monotonic_clock() -> Callable[[], float]:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else partial(time.clock_gettime, clock)


#: Seconds on a clock that runs through suspend where the system has one.
monotonic_s = _monotonic_clock()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, where it can be asked."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Show this name in `ps` and `top`, where that can be set; at most 15 characters count."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    import ctypes  # only executors need it, and only on Linux

    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def forks_cleanly() -> bool:
    """Whether a process that has loaded little may fork others (macOS frameworks object)."""
    return sys.platform == "linux"


def exit_descriptor(pid: int) -> int:
    """A descriptor that turns readable when this child has ended; the caller closes it."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    readable, writable = os.pipe()

    def wait() -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(writable)

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()
    return readable


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
