"""`cloudray worker`: it serves, drains, leaves when idle, and outlasts its store's absence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import cloudray as ray
from cloudray.protocol.nodes import heartbeats, list_agents
from cloudray.store import Reliable, drive, open_store
from tests import buckets, servers
from tests.chaos.proxy import Door, Proxy
from tests.integration import gates
from tests.integration.clusters import wait_until_gone
from tests.integration.programs import ROOT
from tests.integration.workers import worker
from tests.servers import Server

SERVES = "^serves "


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def address(folder: Path) -> str:
    return f"file://{folder}/cluster"


@contextmanager
def joined(address: str) -> Iterator[None]:
    ray.init(address)
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote
def square(number: int) -> int:
    return number * number


@ray.remote
def pass_gate(folder: str, name: str) -> str:
    """Says that it runs, and ends once it may."""
    Path(folder, f"{name}.runs").touch()
    gates.wait_for(Path(folder, f"{name}.may-end"))
    return name


def agents(address: str) -> list[str]:
    store = Reliable(open_store(address))
    return [entry.key for entry in drive(store, list_agents())]


@pytest.mark.usefixtures("no_cluster")
def test_a_worker_serves_a_cluster_and_says_what_it_offers(folder: Path, address: str) -> None:
    options = ("--num-cpus", "2", "--memory", "1 GB", "--resources", "tag=2", "--labels", "zone=a")
    with worker(folder, address, *options) as running:
        said = running.await_line(SERVES)
        store = Reliable(open_store(address))
        (beat,) = drive(store, heartbeats())
        assert said == (
            f"serves {address} with 2 CPUs, 1.0 GB memory, 2 tag "
            f"(agent {beat.agent}, process {running.pid})"
        )
        assert beat.pid == running.pid
        assert beat.labels == {"zone": "a"}
        with joined(address):
            assert ray.get([square.remote(n) for n in range(10)]) == [n * n for n in range(10)]
            (node,) = ray.nodes()
            assert node["Labels"] == {"zone": "a"}
        running.signal()
        assert running.wait() == 0
        assert running.said[1] == "SIGTERM: leaves"
        assert re.fullmatch(
            r"left after .*: 10 tasks run, 0 given back, with \d+ priced requests", running.said[2]
        )
    assert agents(address) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("no_cluster")
def test_a_signal_lets_what_runs_finish_and_gives_back_the_rest(
    folder: Path, address: str, number: signal.Signals
) -> None:
    with worker(folder, address, "--num-cpus", "1", "--drain-timeout", "600") as running:
        running.await_line(SERVES)
        with joined(address):
            first = pass_gate.remote(str(folder), "first")
            gates.wait_for(folder / "first.runs")
            second = pass_gate.remote(str(folder), "second")
            running.signal(number)
            said = running.await_line(f"{number.name}: takes nothing new")
            assert "1 running task may take 10 min more (another signal stops at once)" in said
            (folder / "first.may-end").touch()
            assert running.wait() == 0
            assert running.said[-1].startswith("left after ")
            # It may have left before it had claimed what waited.
            assert re.search(": 1 task run, [01] given back, with ", running.said[-1])
            assert not (folder / "second.runs").exists()
            (folder / "second.may-end").touch()
            (folder / "next").mkdir()
            with worker(folder / "next", address, "--num-cpus", "1"):
                assert ray.get([first, second]) == ["first", "second"]


@pytest.mark.usefixtures("no_cluster")
def test_a_second_signal_stops_at_once(folder: Path, address: str) -> None:
    with worker(folder, address, "--num-cpus", "1", "--drain-timeout", "600") as running:
        running.await_line(SERVES)
        with joined(address):
            stuck = pass_gate.remote(str(folder), "stuck")
            gates.wait_for(folder / "stuck.runs")
            family = running.family()
            running.signal()
            running.await_line("SIGTERM: takes nothing new")
            running.signal()
            assert running.wait() == 0
            wait_until_gone(family)
            assert running.said[-2] == "SIGTERM again: stops at once"
            # Nobody has ended it: it runs again where there is a worker.
            (folder / "stuck.may-end").touch()
            (folder / "next").mkdir()
            with worker(folder / "next", address, "--num-cpus", "1"):
                assert ray.get(stuck) == "stuck"


@pytest.mark.usefixtures("no_cluster")
def test_draining_takes_no_longer_than_it_may(folder: Path, address: str) -> None:
    with worker(folder, address, "--num-cpus", "1", "--drain-timeout", "0.2") as running:
        running.await_line(SERVES)
        with joined(address):
            stuck = pass_gate.remote(str(folder), "stuck")
            gates.wait_for(folder / "stuck.runs")
            running.signal()
            assert running.wait() == 0
            assert "1 still running: left to other agents" in running.said
            ray.cancel(stuck)


@pytest.mark.usefixtures("no_cluster")
def test_with_an_idle_timeout_it_leaves_when_it_has_had_nothing_to_do(
    folder: Path, address: str
) -> None:
    with worker(folder, address, "--num-cpus", "1", "--idle-timeout", "0.5") as running:
        running.await_line(SERVES)
        assert running.wait() == 0
        assert running.said[1] == "nothing to do for 0.5 s: leaves"


@pytest.mark.usefixtures("no_cluster")
def test_it_is_not_idle_while_a_task_runs(folder: Path, address: str) -> None:
    with worker(folder, address, "--num-cpus", "1", "--idle-timeout", "1") as running:
        running.await_line(SERVES)
        with joined(address):
            long = pass_gate.remote(str(folder), "long")
            gates.wait_for(folder / "long.runs")
            with pytest.raises(ray.exceptions.GetTimeoutError):
                # Twice as long as it may be idle.
                ray.get(long, timeout=2.0)
            (folder / "long.may-end").touch()
            assert ray.get(long) == "long"
        assert running.wait() == 0


@pytest.mark.usefixtures("no_cluster")
def test_a_workers_processes_hold_no_key(folder: Path, address: str) -> None:
    text = "crk_" + 43 * "A"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDRAY_KEY", text)
        with worker(folder, address, "--num-cpus", "1") as running:
            running.await_line(SERVES)
            with joined(address):
                assert ray.get(square.remote(3)) == 9
            for pid in (running.pid, *(process.pid for process in running.family())):
                assert text.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
                assert text.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


# -- in a bucket -----------------------------------------------------------------------------


class Place(NamedTuple):
    """A cluster in a bucket, and the worker's way there, which can be cut."""

    address: str
    by_door: str
    door: Door


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.moto() as started, buckets.credentials():
        yield started


@pytest.fixture
def place(server: Server, request: pytest.FixtureRequest) -> Iterator[Place]:
    prefix = request.node.name[:40].strip("[]")
    address = server.address(prefix)
    buckets.create_cluster(address, buckets.HASTY)
    with Proxy(server.port, seed=1) as proxy:
        door = proxy.open()
        yield Place(address, server.address(prefix, port=door.port), door)


@pytest.mark.usefixtures("no_cluster")
def test_a_worker_outlasts_an_outage_longer_than_its_lease_and_loses_nothing(
    folder: Path, place: Place
) -> None:
    with worker(folder, place.by_door, "--num-cpus", "2") as running:
        running.await_line(SERVES)
        with joined(place.address):
            held = [pass_gate.remote(str(folder), name) for name in ("a", "b")]
            waiting = [square.remote(number) for number in range(20)]
            gates.wait_for(folder / "a.runs", folder / "b.runs")
            place.door.cut()
            said = running.await_line("^the store cannot be reached: ")
            assert "and keeps what it holds" in said
            # They end while nobody can be told.
            (folder / "a.may-end").touch()
            (folder / "b.may-end").touch()
            with pytest.raises(ray.exceptions.GetTimeoutError):
                ray.get(held, timeout=buckets.HASTY.lease_s + 1)
            place.door.heal()
            assert ray.get(held) == ["a", "b"]
            assert ray.get(waiting) == [number * number for number in range(20)]
            running.await_line("^the store is back after [0-9.]+ s; the work goes on$")
        assert [line for line in running.said if "store" in line] == [
            line for line in running.said if re.match("the store (cannot be reached|is back)", line)
        ]
        running.signal()
        assert running.wait() == 0


@pytest.mark.usefixtures("no_cluster")
def test_a_worker_waits_for_a_store_that_is_away_when_it_starts(folder: Path, place: Place) -> None:
    place.door.cut()
    with worker(folder, place.by_door) as running:
        running.await_line("^the store cannot be reached: ")
        place.door.heal()
        running.await_line(SERVES)
        running.await_line("^the store is back after ")
        running.signal()
        assert running.wait() == 0


@pytest.mark.usefixtures("no_cluster")
def test_who_waits_for_a_store_leaves_at_the_first_signal(folder: Path, place: Place) -> None:
    place.door.cut()
    with worker(folder, place.by_door) as running:
        running.await_line("^the store cannot be reached: ")
        running.signal()
        assert running.wait() == 0


@pytest.mark.usefixtures("no_cluster")
def test_a_store_that_is_away_keeps_no_worker_from_leaving(folder: Path, place: Place) -> None:
    with worker(folder, place.by_door, "--num-cpus", "1", "--drain-timeout", "1") as running:
        running.await_line(SERVES)
        with joined(place.address):
            ref = pass_gate.remote(str(folder), "stuck")
            gates.wait_for(folder / "stuck.runs")
            place.door.cut()
            running.signal()
            assert running.wait() == 0
            assert running.said[-1].startswith("left after ")
            ray.cancel(ref)


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("s3://no-such-bucket/prefix", 1, "there is no bucket at s3://no-such-bucket/prefix"),
        ("http://bucket", 2, "'http://bucket' is no address of a cluster"),
    ],
)
@pytest.mark.usefixtures("no_cluster")
def test_a_wrong_address_is_told_in_one_line(
    folder: Path, server: Server, address: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloudray", "worker", address],
        cwd=ROOT,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "AWS_ENDPOINT_URL": server.endpoint},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("cloudray worker: ")
    assert said in line
    assert done.returncode == code
