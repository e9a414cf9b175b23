"""The agent of an embedded cluster dies, and another one takes its place."""

from __future__ import annotations

import os
import signal

import pytest

import cloudray as ray
from cloudray.driver.embedded import EmbeddedCluster


@ray.remote
def add(left: int, right: int) -> int:
    return left + right


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom new agents were started for; the first of these dies before anybody is connected."""
    started: list[str] = []
    restart = EmbeddedCluster.restart

    def start(cluster: EmbeddedCluster, dead: str) -> str:
        path = restart(cluster, dead)
        started.append(dead)
        if len(started) == 1:
            assert cluster._process is not None
            cluster._process.kill()
            cluster._process.wait()
        return path

    monkeypatch.setattr(EmbeddedCluster, "restart", start)
    return started


def test_an_agent_that_dies_before_anybody_is_connected_is_replaced_too(
    restarts: list[str],
) -> None:
    with ray.init(num_cpus=1, progress=False):
        (agent,) = ray.nodes()
        os.kill(agent["pid"], signal.SIGKILL)
        assert ray.get(add.remote(1, 2), timeout=60) == 3
        assert restarts == [agent["NodeID"], ""]
