"""A cluster of agents as processes on one directory, to be hurt and then looked over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cloudray import platform
from cloudray.driver.embedded import _python_path
from cloudray.protocol.joining import join
from cloudray.store import Reliable, drive, open_store
from cloudray.timing import Timing

#: What `ps` calls them.
EXECUTOR, ZYGOTE = "cloudray-exec", "cloudray-zygote"
#: Short leases, so that a round is short; long enough that a busy machine condemns nobody alive.
TIMING = Timing(heartbeat_s=0.3, lease_s=2.0, commit_s=0.1, scan_s=0.5)


class Agents:
    """Agents that serve one directory in shared memory."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=platform.memory_folder()))
        self.sockets = self.folder / "run"
        self.sockets.mkdir()
        self.address = f"file://{self.folder}/store?durable={str(durable).lower()}"
        drive(Reliable(open_store(self.address)), join(self.address, TIMING))
        self.processes: list[subprocess.Popen[bytes]] = []
        self._seen: set[int] = set()

    def start(self, num_cpus: int) -> subprocess.Popen[bytes]:
        """Start an agent, and wait until it has made its heartbeat known."""
        before = self._heartbeats()
        places = {"XDG_RUNTIME_DIR": str(self.sockets)}
        with (self.folder / f"agent-{len(self.processes)}.log").open("wb") as log:
            worker = [sys.executable, "-m", "cloudray", "worker", self.address]
            process = subprocess.Popen(
                [*worker, "--num-cpus", str(num_cpus)],
                env=os.environ | places | {"PYTHONPATH": _python_path()},
                stderr=log,
            )
        self.processes.append(process)
        while process.poll() is None and not self._heartbeats() - before:
            time.sleep(0.02)
        return process

    def executors(self, agent: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The executors of an agent that are running now."""
        try:
            family = psutil.Process(agent.pid).children(recursive=True)
            self._seen |= {process.pid for process in family}
            return [process for process in family if process.name() == EXECUTOR]
        except psutil.NoSuchProcess:
            return []

    def zygotes(self) -> list[psutil.Process]:
        """What the living agents' executors are forked from."""
        found = []
        for agent in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(agent.pid).children()
                found += [process for process in children if process.name() == ZYGOTE]
        return found

    def stop(self) -> None:
        """Drain all agents."""
        for process in self.processes:
            if process.poll() is None:
                self.executors(process)
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)

    def leftovers(self) -> list[str]:
        """Executors that outlived their agents, and sockets and files outside the store."""
        alive = [
            f"process {pid}"
            for pid in self._seen
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]
        return alive + [str(path) for path in self.sockets.glob("cloudray/*")]

    def logs(self) -> str:
        """What the agents had to say."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("agent-*.log")))

    def close(self) -> None:
        """End what still runs, and remove the folder."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder)

    def _heartbeats(self) -> set[str]:
        folder = self.folder / "store" / "agents"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
