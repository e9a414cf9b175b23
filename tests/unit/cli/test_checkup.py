from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudray.cli import checkup
from cloudray.protocol.demand import python_tag
from cloudray.protocol.joining import join
from cloudray.protocol.records import Heartbeat, seal
from cloudray.store import Create, MemoryStore, Op, Reliable, drive, layout, opening
from cloudray.version import __version__
from tests.unit.cli.conftest import Ended

Cloudray = Callable[..., Ended]
ADDRESS = "memory://checkup"
CPU = {"CPU": 10_000}


class Careless(MemoryStore):
    """A store that ignores put-if-absent."""

    def perform(self, op: Op) -> Any:
        if isinstance(op, Create):
            super().put(op.key, op.body)
            return True
        return super().perform(op)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The store of a cluster, empty so far."""
    return use(MemoryStore(ADDRESS), monkeypatch)


def use(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    monkeypatch.setattr(opening, "open_store", lambda _: store)
    return store


@pytest.fixture
def findings(cloudray: Cloudray) -> Callable[[], dict[str, dict[str, str]]]:
    """What `cloudray doctor` finds, by subject."""

    def find() -> dict[str, dict[str, str]]:
        ended = cloudray("doctor", ADDRESS, "--json")
        document = json.loads(ended.output)
        failed = any(one["level"] == "failure" for one in document["findings"])
        assert document["ok"] is not failed
        assert ended.code == int(failed)
        # Whoever reads that something does not work is told what to type.
        assert all(one["advice"] for one in document["findings"] if one["level"] == "failure")
        return {one["subject"]: one for one in document["findings"]}

    return find


def beat(store: MemoryStore, agent: str, python: str | None = None, version: str = "") -> None:
    heartbeat = Heartbeat(
        agent, 1, "host", 1, "", CPU, CPU, python=python or python_tag(), version=version
    )
    store.put(layout.agent(agent), seal(heartbeat))


def make(store: MemoryStore) -> None:
    drive(Reliable(store), join(ADDRESS))


def test_a_cluster_that_is_well_passes_every_check(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    make(store)
    beat(store, "one", version=__version__)
    found = findings()
    assert {one["level"] for one in found.values()} == {"ok"}
    assert list(found) == [
        *("versions", "address", "store", "record", "put-if-absent", "clock", "latency", "agents"),
    ]
    assert __version__ in found["versions"]["found"]
    assert found["agents"]["found"].startswith("1 alive, Python 3.")


def test_looking_leaves_nothing_behind(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    findings()
    assert store.list("") == []


def test_a_place_without_a_cluster_is_a_warning(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    record = findings()["record"]
    assert (record["level"], record["found"]) == ("warning", "there is no cluster yet")
    assert f"cloudray worker {ADDRESS}" in record["advice"]
    assert store.list("") == []


def test_a_cluster_without_agents_is_a_warning(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    make(store)
    agents = findings()["agents"]
    assert (agents["level"], agents["found"]) == ("warning", "0 alive")
    assert agents["advice"] == f"Start one: cloudray worker {ADDRESS}"


def test_agents_of_other_versions_are_a_warning(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    make(store)
    beat(store, "one", version="0.0.9")
    agents = findings()["agents"]
    assert agents["level"] == "warning"
    assert f"with CloudRay 0.0.9; this is {__version__}" in agents["found"]
    beat(store, "one", python="py38")
    agents = findings()["agents"]
    assert agents["level"] == "warning"
    assert "with Python 3.8" in agents["found"]


def test_heartbeats_that_cannot_be_read_are_a_warning(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    make(store)
    store.put(layout.agent("strange"), b"something else")
    agents = findings()["agents"]
    assert agents["level"] == "warning"
    assert "the heartbeats of 1 cannot be read" in agents["found"]


def test_agents_that_are_silent_for_too_long_are_counted(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    make(store)
    store.clock = lambda: time.time() - 3600
    beat(store, "dead")
    store.clock = time.time
    assert findings()["agents"]["found"] == "0 alive, 1 silent for too long"


def test_a_store_that_ignores_put_if_absent_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    use(Careless(ADDRESS), monkeypatch)
    found = findings()
    assert found["put-if-absent"]["level"] == "failure"
    assert "ignores put-if-absent" in found["put-if-absent"]["found"]
    # The other checks are made nevertheless.
    assert found["latency"]["level"] == "ok"


def test_a_clock_that_is_wrong_is_a_warning_that_says_by_how_much(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    store.clock = lambda: time.time() + 1200
    clock = findings()["clock"]
    assert clock["level"] == "warning"
    assert "behind that of the store" in clock["found"]
    assert clock["advice"].startswith("Set it")


def test_a_clock_that_is_a_little_off_is_told(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    store.clock = lambda: time.time() - 60
    clock = findings()["clock"]
    assert clock["level"] == "ok"
    assert clock["found"].endswith("ahead of the store's")


def test_a_slow_store_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    store: MemoryStore,
    findings: Callable[[], dict[str, dict[str, str]]],
) -> None:
    assert store.url == ADDRESS
    monkeypatch.setattr(checkup, "_SLOW_S", -1.0)
    latency = findings()["latency"]
    assert latency["level"] == "warning"
    assert "(median of 5)" in latency["found"]


def test_something_else_in_the_place_is_a_failure(
    store: MemoryStore, findings: Callable[[], dict[str, dict[str, str]]]
) -> None:
    store.put("thesis.tex", b"")
    found = findings()["store"]
    assert found["level"] == "failure"
    assert "holds no cluster but something else: thesis.tex" in found["found"]


def test_a_directory_that_is_not_there_is_not_made(cloudray: Cloudray, tmp_path: Path) -> None:
    ended = cloudray("doctor", f"file://{tmp_path}/cluster")
    assert ended.code == 1
    assert f"failure  store: there is no directory {tmp_path}/cluster" in ended.output
    assert list(tmp_path.iterdir()) == []


def test_credentials_of_the_environment_are_named_and_not_shown(
    cloudray: Cloudray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setattr(checkup, "_PATIENCE_S", 0.1)
    # Nobody listens there.
    ended = cloudray("doctor", "s3://bucket/prefix?endpoint=http://127.0.0.1:1&region=us-east-1")
    assert ended.code == 1
    assert "credentials: from the environment (AWS_ACCESS_KEY_ID), AKIAEXAMPLE" in ended.output
    assert "very-secret" not in ended.output + ended.errors
    assert "failure  store: " in ended.output
    assert "cannot be reached" in ended.output
    assert "See whether anything answers there: curl -sS http://127.0.0.1:1\n" in ended.output
