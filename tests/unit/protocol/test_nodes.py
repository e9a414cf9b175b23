from __future__ import annotations

from typing import Any

import pytest

from cloudray.protocol import listing
from cloudray.protocol.nodes import heartbeats, list_agents, list_nodes
from cloudray.protocol.records import Heartbeat, seal
from cloudray.store import Delete, GetMany, MemoryStore, Op, Store, drive, layout

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
    assert drive(store, list_nodes()) == []


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
    (node,) = drive(store, list_nodes())
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
    (node,) = drive(store, list_nodes())
    assert node["Draining"] is draining
