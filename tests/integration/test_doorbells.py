"""Agents that hear of work by a bell alone: no socket leads to them, and they hardly ever scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray.driver.peers import Peers
from cloudray.timing import Timing
from tests.buckets import cluster_in_bucket, create_cluster, credentials
from tests.servers import Server

#: An agent that does not hear finds nothing for an hour.
DEAF = Timing(heartbeat_s=2.0, lease_s=20.0, commit_s=0.1, scan_s=3600.0)
OPTIONS = "--num-cpus=2"


@ray.remote
def double(number: int) -> int:
    return 2 * number


@ray.remote
def parent(number: int) -> int:
    return sum(ray.get([double.remote(number), double.remote(number)]))


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch, no_cluster: None) -> None:
    """As on another machine."""
    del no_cluster
    monkeypatch.setattr(Peers, "connect", lambda *_: None)


def work(address: str) -> None:
    """Run tasks one after the other, so that each must be heard of; and some at once."""
    ray.init(address)
    try:
        assert [ray.get(double.remote(number)) for number in range(5)] == [0, 2, 4, 6, 8]
        assert ray.get(parent.remote(3)) == 12
        assert sum(ray.get([double.remote(number) for number in range(100)])) == 9900
    finally:
        ray.shutdown()


def test_the_buckets_own_bell_rings_agents(localstack: Server, tmp_path: Path) -> None:
    with cluster_in_bucket(
        tmp_path, OPTIONS, server=localstack, prefix="own-bell", timing=DEAF
    ) as address:
        work(address)


def test_a_queue_rings_agents_and_is_empty_afterwards(localstack: Server, tmp_path: Path) -> None:
    queue = f"{localstack.endpoint}/000000000000/cloudray"
    with credentials():
        create_cluster(f"{localstack.address('queue-bell')}&sqs={queue}", DEAF)
    with cluster_in_bucket(
        tmp_path, OPTIONS, server=localstack, prefix="queue-bell", timing=DEAF
    ) as address:
        work(address)
        assert messages(queue) == 0


def messages(queue: str) -> int:
    """How many messages are left that agents could receive."""
    import boto3

    client: Any = boto3.client("sqs", endpoint_url=queue.rpartition("/000000000000/")[0])
    name = "ApproximateNumberOfMessages"
    found = client.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
    client.close()
    return int(found["Attributes"][name])
