"""The agents of a cluster, as Ray shows nodes."""

from __future__ import annotations

from typing import Any

from cloudray.protocol.demand import from_units
from cloudray.protocol.records import Heartbeat, unseal
from cloudray.store import layout
from cloudray.store.base import Entry, GetMany, List
from cloudray.store.procedures import Procedure

#: How many agents are listed in one request.
_PAGE = 1000


def list_agents() -> Procedure[list[Entry]]:
    """List the heartbeats of all agents, without reading them."""
    found: list[Entry] = []
    while True:
        after = found[-1].key if found else ""
        page: list[Entry] = yield List(layout.AGENTS, after, _PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def heartbeats() -> Procedure[list[Heartbeat]]:
    """Read all heartbeats."""
    entries = yield from list_agents()
    return (yield from read_heartbeats(tuple(entry.key for entry in entries)))


def read_heartbeats(keys: tuple[str, ...]) -> Procedure[list[Heartbeat]]:
    """Read the heartbeats at these keys; agents that have left meanwhile are left out."""
    bodies: list[bytes | None] = yield GetMany(keys)
    return [
        unseal(Heartbeat, body, key)
        for key, body in zip(keys, bodies, strict=True)
        if body is not None
    ]


def list_nodes() -> Procedure[list[dict[str, Any]]]:
    """One dictionary per agent, with Ray's keys and what is free."""
    beats = yield from heartbeats()
    return [
        {
            "NodeID": beat.agent,
            "Alive": True,
            "NodeManagerHostname": beat.host,
            "NodeManagerAddress": beat.host,
            "AgentSocket": beat.socket,
            "Resources": {name: from_units(units) for name, units in beat.total.items()},
            "Available": {name: from_units(units) for name, units in beat.free.items()},
            "Draining": beat.draining,
            "pid": beat.pid,
        }
        for beat in beats
    ]
