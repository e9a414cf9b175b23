"""What a program can ask about where it runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.clusters import Embedded
from tests.integration.gates import wait_for


@ray.remote
def facts() -> dict[str, Any]:
    context = ray.get_runtime_context()
    return {
        "job": context.get_job_id(),
        "node": context.get_node_id(),
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "name": context.get_task_name(),
        "function": context.get_task_function_name(),
        "attempt": context.get_attempt_number(),
        "namespace": context.namespace,
        "mode": context.worker,
        "env": context.runtime_env,
        "pid": os.getpid(),
    }


@pytest.mark.usefixtures("cluster")
def test_a_driver_is_no_task() -> None:
    context = ray.get_runtime_context()
    assert context.worker == "driver"
    assert context.get_task_id() is None
    assert context.get_task_name() is None
    assert context.get_task_function_name() is None
    assert context.get_assigned_resources() == {}
    assert context.runtime_env == {}
    assert context.get_worker_id() == str(os.getpid())
    assert context.gcs_address.startswith("file://")


@pytest.mark.usefixtures("cluster")
def test_a_task_knows_its_job_its_node_and_itself() -> None:
    ref = facts.options(name="tea").remote()
    found = ray.get(ref)
    (node,) = ray.nodes()
    assert found["job"] == ray.get_runtime_context().get_job_id()
    assert found["node"] == node["NodeID"]
    assert found["worker"] == str(found["pid"]) != str(os.getpid())
    assert found["task"] == ref.task_id()
    assert (found["name"], found["function"]) == ("tea", "facts")
    assert (found["attempt"], found["mode"], found["env"]) == (0, "executor", {})


@pytest.mark.usefixtures("cluster")
def test_a_task_without_a_name_is_called_like_its_function() -> None:
    assert ray.get(facts.remote())["name"] == "facts"


def test_the_namespace_is_the_drivers(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1, namespace="kitchen")
    assert ray.get_runtime_context().namespace == "kitchen"
    assert ray.get(facts.remote())["namespace"] == "kitchen"


def test_a_cluster_has_what_it_was_given(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=3, num_gpus=1, memory=2**30, resources={"tea": 2.5})
    assert ray.cluster_resources() == {"CPU": 3, "GPU": 1, "memory": 2**30, "tea": 2.5}


def test_a_cluster_has_the_machine_unless_told_otherwise(
    own_cluster: Callable[..., Embedded],
) -> None:
    own_cluster()
    assert ray.cluster_resources()["CPU"] == len(os.sched_getaffinity(0))
    assert ray.cluster_resources()["memory"] > 2**28


def test_what_a_running_task_holds_is_not_available(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=2, resources={"tea": 1})

    @ray.remote(resources={"tea": 0.75})
    def hold() -> None:
        wait_for(tmp_path / "gate")

    assert ray.available_resources()["CPU"] == 2
    ref = hold.remote()
    while ray.available_resources()["CPU"] == 2:
        assert ray.wait([ref], timeout=0.05) == ([], [ref])
    assert ray.available_resources()["CPU"] == 1
    assert ray.available_resources()["tea"] == pytest.approx(0.25)
    tmp_path.joinpath("gate").touch()
    ray.get(ref)
    while ray.available_resources()["CPU"] < 2:
        ray.wait([ray.put(None)])


@pytest.mark.usefixtures("cluster")
def test_a_node_is_described_as_ray_does() -> None:
    (node,) = ray.nodes()
    assert node["Alive"]
    assert node["NodeManagerHostname"] == socket.gethostname()
    assert node["Resources"] == ray.cluster_resources()
