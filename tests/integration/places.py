"""A named cluster with agents as processes, to be killed and paused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import cloudray as ray
from cloudray.protocol.jobs import queued
from cloudray.store import Reliable, drive, open_store
from cloudray.timing import Timing
from tests.buckets import HASTY, create_cluster
from tests.integration.clusters import wait_until_gone
from tests.integration.drivers import LIMIT_S, environment


class Place:
    """A cluster, and agents of it as processes."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._folder = folder
        self._agents: list[subprocess.Popen[bytes]] = []

    def start_agent(self, *options: str) -> subprocess.Popen[bytes]:
        agent = subprocess.Popen(
            [sys.executable, "-m", "cloudray", "worker", self.address, *options],
            env=environment(XDG_RUNTIME_DIR=str(self._folder)),
        )
        self._agents.append(agent)
        return agent

    def kill_agents(self) -> None:
        """Kill all agents, with what they have started."""
        for agent in self._agents:
            self.wake(agent)
        families = [family_of(agent) for agent in self._agents]
        for family in families:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for agent in self._agents:
            agent.wait(LIMIT_S)
        self._agents.clear()
        for family in families:
            wait_until_gone(family)

    def pause(self, agent: subprocess.Popen[bytes]) -> None:
        """Stop an agent and all it has started, as when a machine is put to sleep."""
        for process in family_of(agent):
            process.suspend()

    def wake(self, agent: subprocess.Popen[bytes]) -> None:
        """Let them go on."""
        for process in family_of(agent):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def queue(self, job: str) -> int:
        """How many tasks a job has in batches that are not over."""
        store = Reliable(open_store(self.address))
        try:
            return sum(name.size for name in drive(store, queued(bytes.fromhex(job))))
        finally:
            store.close()

    def keys(self, prefix: str) -> list[str]:
        store = Reliable(open_store(self.address))
        try:
            return [entry.key for entry in store.list(prefix)]
        finally:
            store.close()


def family_of(agent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """An agent, and all that it has started."""
    try:
        process = psutil.Process(agent.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def place_at(address: str, folder: Path, timing: Timing = HASTY) -> Iterator[Place]:
    """A new cluster; its agents are killed afterwards. Their sockets lie in `folder`."""
    create_cluster(address, timing)
    place = Place(address, folder)
    try:
        yield place
    finally:
        ray.shutdown()
        place.kill_agents()
