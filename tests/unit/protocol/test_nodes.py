from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloudray.protocol import listing
from cloudray.protocol.leases import silence_limit_s
from cloudray.protocol.nodes import heartbeats, list_agents, list_nodes
from cloudray.protocol.records import Cluster, Heartbeat, seal
from cloudray.store import Delete, GetMany, MemoryStore, Op, Put, Store, drive, layout
from cloudray.store.base import RefusedError, StoreError, StoreFullError

SETTINGS = Cluster(10.0, 30.0, 1.0, 60.0)
ONE = Heartbeat(
    "one", 3, "host-1", 11, "/run/one.sock", {"CPU": 40_000, "tag": 5000}, {"CPU": 10_000}
)
TWO = Heartbeat("two", 1, "host-2", 12, "/run/two.sock", {"CPU": 20_000}, {"CPU": 0}, draining=True)


def beat(store: Store, *beats: Heartbeat) -> None:
    for one in beats:
        store.put(layout.agent(one.agent), seal(one))


class Hasty(MemoryStore):
    """A store in which an agent leaves between a listing and the reading of what it named."""

    def perform(self, op: Op) -> Any:
        if isinstance(op, GetMany):
            super().perform(Delete((layout.agent("one"),)))
        return super().perform(op)


def test_an_empty_cluster_has_no_agents(store: Store) -> None:
    assert drive(store, heartbeats()) == []
    assert drive(store, list_nodes(SETTINGS, 0.0)) == []


def test_every_agent_is_found(store: Store) -> None:
    beat(store, TWO, ONE)
    assert drive(store, heartbeats()) == [ONE, TWO]


def test_agents_are_listed_page_after_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    for number in range(5):
        store.put(layout.agent(f"agent-{number}"), b"")
    assert [entry.key for entry in drive(store, list_agents())] == [
        layout.agent(f"agent-{number}") for number in range(5)
    ]


def test_an_agent_that_leaves_meanwhile_is_no_error() -> None:
    store = Hasty()
    beat(store, ONE, TWO)
    assert drive(store, heartbeats()) == [TWO]


def test_an_agent_is_shown_as_ray_shows_a_node(store: Store) -> None:
    beat(store, ONE)
    (node,) = drive(store, list_nodes(SETTINGS, 0.0))
    assert node["NodeID"] == "one"
    assert node["Alive"] is True
    assert node["NodeManagerHostname"] == "host-1"
    assert node["Resources"] == {"CPU": 4.0, "tag": 0.5}
    assert node["Available"] == {"CPU": 1.0}


@pytest.mark.parametrize(("heartbeat", "draining"), [(ONE, False), (TWO, True)])
def test_it_shows_whether_an_agent_is_leaving(
    store: Store, heartbeat: Heartbeat, draining: bool
) -> None:
    beat(store, heartbeat)
    (node,) = drive(store, list_nodes(SETTINGS, 0.0))
    assert node["Draining"] is draining


class Clocked(MemoryStore):
    """A store whose clock the test moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000_000.0
        self.clock = lambda: self.now_s


def test_an_agent_that_is_silent_for_too_long_is_not_alive() -> None:
    store = Clocked()
    beat(store, msgspec.structs.replace(ONE, idle=False))
    store.now_s += silence_limit_s(SETTINGS, idle=False)
    beat(store, TWO)
    alive = {node["NodeID"]: node["Alive"] for node in drive(store, list_nodes(SETTINGS, 0.0))}
    assert alive == {"one": True, "two": True}
    store.now_s += 1
    alive = {node["NodeID"]: node["Alive"] for node in drive(store, list_nodes(SETTINGS, 0.0))}
    assert alive == {"one": False, "two": True}


def test_an_agent_that_has_nothing_to_do_may_be_silent_for_longer() -> None:
    store = Clocked()
    beat(store, msgspec.structs.replace(ONE, idle=True))
    store.now_s += silence_limit_s(SETTINGS, idle=True)
    (node,) = drive(store, list_nodes(SETTINGS, 0.0))
    assert node["Alive"]


@pytest.mark.parametrize(
    "error", [RefusedError("no permission"), StoreFullError("no space left on device")]
)
def test_whoever_may_only_read_sees_ages_by_a_clock_of_his_own(error: StoreError) -> None:
    class ReadOnly(Clocked):
        def perform(self, op: Op) -> Any:
            if isinstance(op, Put) and not op.key.startswith(layout.AGENTS):
                raise error
            return super().perform(op)

    store = ReadOnly()
    beat(store, msgspec.structs.replace(ONE, idle=False))
    (early,) = drive(store, list_nodes(SETTINGS, store.now_s))
    (late,) = drive(store, list_nodes(SETTINGS, store.now_s + 100))
    assert (early["Alive"], late["Alive"]) == (True, False)
