"""Embedded clusters for tests, and the proof that nothing of them is left."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import cloudray as ray

#: How long what a cluster leaves behind may take to go.
PATIENCE_S = 20.0


class Embedded:
    """The cluster of this process, as seen from outside: its folder, its processes."""

    def __init__(self) -> None:
        address = urlsplit(ray.init(ignore_reinit_error=True)["address"]).path
        self.folder = Path(address).parent
        self.agent = int(ray.nodes()[0]["pid"])

    def processes(self) -> list[psutil.Process]:
        """The agent, its executors, and whatever these have started."""
        try:
            agent = psutil.Process(self.agent)
            return [agent, *agent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def executors(self) -> list[psutil.Process]:
        """The processes that run tasks: the agent's children's children."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.agent).children():
                found += child.children()
        return found

    def sockets(self) -> list[str]:
        """Sockets that are bound in the cluster's folder."""
        lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if str(self.folder) in line]

    def end(self) -> None:
        """Shut the cluster down, and check that no process, socket, folder or thread is left."""
        processes = self.processes()
        ray.shutdown()
        assert not self.folder.exists(), f"{self.folder} is left"
        wait_until_gone(processes)
        assert self.sockets() == []
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("cloudray")]
        assert ours == [], ours


def start(**options: Any) -> Embedded:
    """Start a cluster with these options of `init`."""
    ray.init(**options)
    return Embedded()


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Check that processes end; one that nobody has reaped yet has ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    left = processes
    while left and time.monotonic() < deadline_s:
        left = [process for process in left if _runs(process)]
        if left:
            time.sleep(0.01)
    assert left == []


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def open_descriptors() -> int:
    """How many files, sockets and pipes this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
