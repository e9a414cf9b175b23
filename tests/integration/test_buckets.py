"""Clusters in one bucket: they share it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cloudray as ray
from cloudray.exceptions import ObjectLostError
from tests import buckets
from tests.buckets import cluster_in_bucket
from tests.servers import Server


@ray.remote
def where() -> str:
    return ray.get_runtime_context().get_node_id()


@pytest.fixture(params=["localstack", "radosgw"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server for this test's clusters."""
    found: Server = request.getfixturevalue(request.param)
    return found


@contextmanager
def joined(address: str) -> Iterator[list[str]]:
    """Be a driver there; yields the agents that it sees."""
    ray.init(address)
    try:
        yield [node["NodeID"] for node in ray.nodes()]
    finally:
        ray.shutdown()


@pytest.mark.usefixtures("no_cluster")
def test_two_clusters_in_one_bucket_never_see_each_other(server: Server, tmp_path: Path) -> None:
    # The name of one begins with that of the other.
    one, other = "pair", "pair-of-clusters"
    options = "--num-cpus=1"
    with cluster_in_bucket(tmp_path, options, server=server, prefix=one) as address:
        elsewhere = server.address(other)
        buckets.create_cluster(elsewhere, buckets.HASTY)
        with joined(elsewhere) as agents:
            assert agents == []
            text = where.remote().hex()

        with joined(address) as agents:
            # Its agent takes what it finds: ours, and nothing else.
            assert set(ray.get([where.remote() for _ in range(20)])) == set(agents)
            with pytest.raises(ObjectLostError, match="another cluster"):
                ray.get(ray.ObjectRef.from_hex(text))

        with joined(elsewhere) as agents:
            assert agents == []
            assert ray.wait([ray.ObjectRef.from_hex(text)], timeout=0)[0] == []

    with (
        cluster_in_bucket(tmp_path, options, server=server, prefix=other) as address,
        joined(address) as agents,
    ):
        assert [ray.get(ray.ObjectRef.from_hex(text))] == agents
