"""`cloudray status` and `cloudray doctor` on clusters that are at work."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests import buckets, servers
from tests.integration import gates
from tests.integration.programs import ROOT
from tests.integration.workers import RunningWorker, worker
from tests.servers import Server

CLASS = f"py3{sys.version_info.minor}-cpu1-m0"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.moto() as started, buckets.credentials():
        yield started


@pytest.fixture(params=["directory", "bucket"])
def address(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "directory":
        return f"file://{folder}/cluster"
    server: Server = request.getfixturevalue("server")
    address = server.address(folder.name)
    buckets.create_cluster(address, buckets.HASTY)
    return address


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cloudray", *words],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )


def status(address: str) -> dict[str, Any]:
    done = call("status", address, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["address"] == address
    return found


def reasons(address: str) -> dict[str, str]:
    """Why what is queued does not run, by class."""
    return {each["name"]: each["reason"] for each in status(address)["classes"]}


@ray.remote
def pass_gate(folder: str, name: str) -> str:
    Path(folder, f"{name}.runs").touch()
    gates.wait_for(Path(folder, f"{name}.may-end"))
    return name


@ray.remote(num_gpus=1)
def on_a_gpu() -> None:
    pass


@ray.remote
def after(value: object) -> object:
    return value


@pytest.mark.usefixtures("no_cluster")
def test_status_shows_what_waits_who_works_and_why(folder: Path, address: str) -> None:
    ray.init(address)
    first = pass_gate.remote(str(folder), "first")
    gpu = on_a_gpu.remote()
    ray.wait([first, gpu], timeout=0)
    assert reasons(address) == {
        CLASS: "no agent serves this cluster",
        f"{CLASS}-gpu1": "no agent serves this cluster",
    }
    with worker(folder, address, "--num-cpus", "1", "--labels", "zone=a") as running:
        gates.wait_for(folder / "first.runs")
        second = after.remote(first)
        ray.wait([second], timeout=0)
        _check_while_it_works(address, running)
        (folder / "first.may-end").touch()
        assert ray.get(second) == "first"
        ray.cancel(gpu)
        # The agent takes it out of the queue, although it could not run it.
        deadline_s = time.monotonic() + gates.LIMIT_S
        while reasons(address) and time.monotonic() < deadline_s:
            pass
        table = call("status", address).stdout
        assert table.startswith(f"{address}: 1 agent alive, ")
        running.signal()
        assert running.wait() == 0
    ray.shutdown()
    assert status(address) == {"address": address, "agents": [], "classes": []}
    assert "No agent serves it. Start one: cloudray worker " in call("status", address).stdout


def _check_while_it_works(address: str, running: RunningWorker) -> None:
    found = status(address)
    (agent,) = found["agents"]
    assert agent["pid"] == running.pid
    assert agent["alive"]
    assert agent["labels"] == {"zone": "a"}
    assert agent["resources"]["CPU"] == 1
    classes = {each["name"]: each for each in found["classes"]}
    assert classes[CLASS]["queued_tasks"] + classes[CLASS]["claimed_tasks"] in (1, 2)
    gpu = classes[f"{CLASS}-gpu1"]
    assert (gpu["queued_tasks"], gpu["example"]) == (1, "on_a_gpu")
    assert gpu["reason"].startswith("it asks for 1 CPU, 1 GPU, and no agent has that much (at most")
    table = call("status", address).stdout
    assert agent["agent"] in table
    assert f"{CLASS}-gpu1: on_a_gpu: it asks for" in table


@pytest.mark.usefixtures("no_cluster")
def test_doctor_finds_nothing_wrong_with_a_cluster_that_works(folder: Path, address: str) -> None:
    with worker(folder, address, "--num-cpus", "1") as running:
        running.await_line("^serves ")
        done = call("doctor", address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}, done.stdout
        assert "agents: 1 alive" in done.stdout
        running.signal()
        assert running.wait() == 0


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_bucket_that_is_not_there_is_told_in_one_line(command: str, server: Server) -> None:
    address = f"s3://no-such-bucket/prefix?endpoint={server.endpoint}&region=us-east-1"
    done = call(command, address)
    assert done.returncode == 1
    assert "there is no bucket at s3://no-such-bucket/prefix" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
