"""Two agents on a directory that syncs every write: the store takes its time, order must hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cloudray as ray
from tests.chaos.cluster import Agents


@pytest.fixture(scope="module")
def cluster() -> Iterator[Agents]:
    agents = Agents(durable=True)
    try:
        for _ in range(2):
            agents.start(2)
        ray.init(agents.address)
        yield agents
        ray.shutdown()
        agents.stop()
        assert agents.leftovers() == []
    finally:
        ray.shutdown()
        agents.close()


@ray.remote
def add_one(number: int) -> int:
    return number + 1


@ray.remote
def store(number: int) -> ray.ObjectRef[int]:
    return ray.put(number + 1)


@ray.remote
def sum_of_stored(count: int) -> int:
    inner = ray.get([store.remote(number) for number in range(count)])
    return sum(ray.get(inner))


@pytest.mark.usefixtures("cluster")
def test_many_tasks_return_in_order() -> None:
    assert ray.get([add_one.remote(number) for number in range(500)]) == list(range(1, 501))


@pytest.mark.usefixtures("cluster")
def test_nested_tasks_return_refs_that_never_dangle() -> None:
    assert ray.get([sum_of_stored.remote(5) for _ in range(4)], timeout=100) == [15] * 4


@pytest.mark.usefixtures("cluster")
def test_large_arguments_and_results_pass_through_the_directory() -> None:
    array = np.arange(200_000)

    @ray.remote
    def double(values: np.ndarray) -> np.ndarray:
        return values * 2

    assert (ray.get(double.remote(array)) == array * 2).all()


def test_both_agents_are_nodes_of_the_cluster(cluster: Agents) -> None:
    assert {node["pid"] for node in ray.nodes()} == {agent.pid for agent in cluster.processes}
    assert ray.cluster_resources()["CPU"] == 4
