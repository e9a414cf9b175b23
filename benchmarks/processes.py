"""The processes that a measured program causes, and the memory they hold."""

from __future__ import annotations

import os
from pathlib import Path

#: Every process that a measured program starts inherits this variable, however it is reparented.
MARK = "CLOUDRAY_BENCHMARK_MARK"

PROC = Path("/proc")


def caused_by(root: int, mark: str) -> set[int]:
    """The processes that process `root` caused: its descendants, and whoever carries `mark`.

    Both count: a daemon has left the tree, and a program may write its title over its environment.
    """
    parents: dict[int, int] = {}
    found = {root}
    needle = f"{MARK}={mark}".encode()
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = entry.joinpath("stat").read_text(errors="replace")
            environment = entry.joinpath("environ").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            # It ended while we looked, or belongs to someone else.
            continue
        # The name, in parentheses, may hold anything: state and parent follow it.
        state, parent, *_ = stat.rpartition(")")[2].split()
        if state == "Z":
            continue
        parents[int(entry.name)] = int(parent)
        if needle in environment.split(b"\0"):
            found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def resident_bytes(pid: int) -> int:
    """Proportional set size: a page that n processes map counts 1/n in each. 0 when it ended."""
    return _proportional_bytes(pid).get("Pss", 0)


def own_bytes_of(pid: int) -> int:
    """Proportional set size without what lies in shared memory. 0 when it ended."""
    sizes = _proportional_bytes(pid)
    return sizes.get("Pss", 0) - sizes.get("Pss_Shmem", 0)


def _proportional_bytes(pid: int) -> dict[str, int]:
    """The figures that the kernel has on a process's memory, by their names."""
    try:
        lines = PROC.joinpath(str(pid), "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    figures = (line.split() for line in lines[1:])
    return {name.rstrip(":"): int(size_kb) * 1024 for name, size_kb, *_ in figures}


def shared_memory_bytes() -> int:
    """Bytes that files in /dev/shm hold, whoever wrote them."""
    stat = os.statvfs("/dev/shm")
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
