"""A cluster with a key and one agent, and somebody who can write to its bucket but has no key."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cloudray import keyring, platform
from cloudray.keyring import ClusterKey
from cloudray.protocol.joining import join
from cloudray.store import Entry, Reliable, Store, drive, layout, open_cluster, open_store
from cloudray.timing import Timing
from tests.integration.programs import ROOT

#: Short, so that scans are frequent.
TIMING = Timing(heartbeat_s=0.3, lease_s=3.0, commit_s=0.1, scan_s=0.3)
#: Far longer than anything takes here; what does not come fails the test.
PATIENCE_S = 60.0


class Keyed:
    """The cluster lies in a directory that syncs nothing, but is used as if it were far away."""

    def __init__(self, key: ClusterKey | None = None) -> None:
        self.key = key or keyring.new_key("a test")
        # In memory, and short: the path of a socket has a limit.
        self.folder = Path(tempfile.mkdtemp(prefix="keyed-", dir=platform.memory_folder()))
        self.address = f"file://{self.folder}/store?durable=true"
        #: what whoever may write to the bucket sees
        self.raw: Store = open_store(self.address)
        #: what those see who have the key
        self.store = Reliable(open_cluster(self.address, key=self.key))
        drive(self.store, join(self.address, TIMING, key=self.key))
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the agent, with the key in its environment, and wait for its heartbeat."""
        (self.folder / "run").mkdir(exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "CLOUDRAY_KEY": self.key.text,
        }
        with (self.folder / "agent.log").open("ab") as log:
            agent = self.agent = subprocess.Popen(
                [sys.executable, "-m", "cloudray", "worker", self.address, *arguments],
                env=environment | variables,
                stderr=log,
            )
        self.wait(lambda: bool(self.raw.list(layout.AGENTS)) or agent.poll() is not None)
        return agent

    def log(self) -> str:
        """What the agent had to say."""
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""

    def logged(self, text: str) -> None:
        """Wait until the agent has said something."""
        self.wait(lambda: text in self.log(), lambda: f"not logged: {text}\n{self.log()}")

    def pause(self) -> None:
        """Stop the agent, as SIGSTOP does, until `go_on`."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGSTOP)
        agent = psutil.Process(self.agent.pid)
        self.wait(lambda: agent.status() == psutil.STATUS_STOPPED)

    def go_on(self) -> None:
        """Let the agent go on."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGCONT)

    def listed(self, prefix: str = "") -> list[str]:
        """The keys that are there now."""
        found: list[Entry] = self.raw.list(prefix, limit=10_000)
        return [entry.key for entry in found]

    def new_key(self, prefix: str, before: list[str], end: str = "") -> str:
        """Wait for a key that was not there `before`."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [
                key for key in self.listed(prefix) if key not in before and key.endswith(end)
            ]
            return bool(found)

        self.wait(look)
        return found[0]

    def wait(self, condition: Callable[[], Any], why: Callable[[], str] = str) -> None:
        """Wait until something holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, why()
            time.sleep(0.01)

    def close(self) -> None:
        """End the agent, and remove everything."""
        if self.agent is not None:
            self.agent.send_signal(signal.SIGCONT)
            family = psutil.Process(self.agent.pid).children(recursive=True)
            self.agent.kill()
            self.agent.wait()
            _, left = psutil.wait_procs(family, PATIENCE_S)
            assert left == []
        self.store.close()
        shutil.rmtree(self.folder)
