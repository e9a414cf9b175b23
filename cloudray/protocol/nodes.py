"""The agents of a cluster, as Ray shows nodes."""

from __future__ import annotations

from typing import Any

from cloudray.protocol.demand import from_units
from cloudray.protocol.records import Heartbeat, unseal
from cloudray.store import layout
from cloudray.store.base import Entry, GetMany, List
from cloudray.store.procedures import Procedure


def heartbeats() -> Procedure[list[Heartbeat]]:
    """Read all heartbeats."""
    entries: list[Entry] = yield List(layout.AGENTS)
    keys = tuple(entry.key for entry in entries)
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
