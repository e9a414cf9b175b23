"""What `cloudray status` says of agents that are silent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from cloudray.protocol.demand import python_tag
from cloudray.protocol.joining import join
from cloudray.protocol.records import Heartbeat, seal
from cloudray.store import MemoryStore, Reliable, drive, layout, opening
from tests.unit.cli.conftest import Ended

Cloudray = Callable[..., Ended]
ADDRESS = "memory://standing"
CPU = {"CPU": 10_000}
HOUR_S = 3600


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The store of a cluster without agents."""
    made = MemoryStore(ADDRESS)
    monkeypatch.setattr(opening, "open_store", lambda _: made)
    drive(Reliable(made), join(ADDRESS))
    return made


def beat(store: MemoryStore, agent: str, ago_s: float) -> str:
    """Have an agent beat so long ago; returns when that was, as people see it."""
    at_s = time.time() - ago_s
    if ago_s:
        # In the middle of a minute, so that a second more or less shows in no minute.
        at_s += 30 - at_s % 60
    store.clock = lambda: at_s
    heartbeat = Heartbeat(agent, 1, "host", 1, "", CPU, CPU, python=python_tag())
    store.put(layout.agent(agent), seal(heartbeat))
    store.clock = time.time
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))


def test_of_a_dead_agent_it_says_since_when_and_who_takes_over(
    cloudray: Cloudray, store: MemoryStore
) -> None:
    since = beat(store, "dead", HOUR_S + 30)
    beat(store, "alive", 0)
    said = cloudray("status", ADDRESS).output
    assert f"1 agent counts as dead: nothing was heard of it since {since}:" in said
    assert "What it held is taken over by those with a free slot." in said
    assert "No agent serves it" not in said


def test_where_all_are_dead_it_says_how_to_start_one(
    cloudray: Cloudray, store: MemoryStore
) -> None:
    beat(store, "first", 2 * HOUR_S)
    since = beat(store, "second", HOUR_S + 30)
    said = cloudray("status", ADDRESS).output
    assert f"No agent serves it. Start one: cloudray worker {ADDRESS}\n" in said
    assert f"2 agents count as dead: nothing was heard of them since {since}:" in said
    assert "What they held is taken over by the next that starts." in said


def test_for_programs_each_agent_has_its_silence(cloudray: Cloudray, store: MemoryStore) -> None:
    beat(store, "dead", HOUR_S)
    (agent,) = json.loads(cloudray("status", ADDRESS, "--json").output)["agents"]
    assert agent["alive"] is False
    assert agent["silent_s"] > HOUR_S - 60


def test_of_those_that_live_it_says_nothing_more(cloudray: Cloudray, store: MemoryStore) -> None:
    beat(store, "alive", 0)
    assert "dead" not in cloudray("status", ADDRESS).output
