"""A cluster in a bucket of a local S3, with one agent that has no other store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from cloudray.protocol.joining import join
from cloudray.protocol.nodes import list_agents
from cloudray.store import Reliable, drive, open_store
from cloudray.timing import Timing
from tests import servers
from tests.servers import Server

#: Short leases, so that who dies is missed soon; on a busy machine the living may be missed too.
HASTY = Timing(heartbeat_s=0.3, lease_s=2.0, commit_s=0.1, scan_s=0.5)
#: For a cluster that stays for many tests, and costs little while nobody uses it.
CALM = Timing(heartbeat_s=2.0, lease_s=20.0, commit_s=0.1, scan_s=2.0)


@contextmanager
def cluster_in_bucket(
    folder: Path,
    *options: str,
    server: Server | None = None,
    prefix: str = "cluster",
    timing: Timing = HASTY,
) -> Iterator[str]:
    """Start an agent with these options; yields its cluster's address.

    The cluster lies under `prefix` in the bucket of `server`, by default one of moto's that goes
    with it. The agent's sockets lie in `folder`.
    """
    with nullcontext(server) if server else servers.moto() as place, credentials():
        address = place.address(prefix)
        create_cluster(address, timing)
        # The package, wherever the test has gone.
        python_path = os.pathsep.join(filter(None, sys.path))
        agent = subprocess.Popen(
            [sys.executable, "-m", "cloudray", "worker", address, *options],
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": python_path},
        )
        try:
            _await_agent(address, agent)
            yield address
        finally:
            agent.terminate()
            try:
                assert agent.wait(60) == 0
            finally:
                agent.kill()
                agent.wait()


@contextmanager
def bucket() -> Iterator[str]:
    """Start moto's S3; yields the URL of an empty bucket."""
    with servers.moto() as server, credentials():
        yield server.address("").replace("/?", "?")


@contextmanager
def credentials() -> Iterator[None]:
    """Let this process use the local servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.CREDENTIALS.items():
            patch.setenv(name, value)
        yield


def _await_agent(address: str, agent: subprocess.Popen[bytes]) -> None:
    store = Reliable(open_store(address))
    try:
        while not drive(store, list_agents()):
            assert agent.poll() is None, "the agent ended before its first heartbeat"
            time.sleep(0.05)
    finally:
        store.close()


def create_cluster(address: str, timing: Timing) -> None:
    """Make a cluster with these times, unless it is there."""
    store = Reliable(open_store(address))
    try:
        drive(store, join(address, timing))
    finally:
        store.close()
