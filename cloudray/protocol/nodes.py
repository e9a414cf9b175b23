"""The agents of a cluster, as Ray shows nodes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from cloudray.protocol.demand import from_units
from cloudray.protocol.endings import store_time
from cloudray.protocol.leases import is_alive
from cloudray.protocol.listing import list_all
from cloudray.protocol.records import Cluster, Heartbeat, unseal
from cloudray.store import layout
from cloudray.store.base import Entry, GetMany, RefusedError, StoreFullError
from cloudray.store.envelope import RecordError
from cloudray.store.procedures import Procedure


def list_agents() -> Procedure[list[Entry]]:
    """List the heartbeats of all agents, without reading them."""
    # Who can write to the bucket may have put there what has no such name.
    lines = yield from list_all(layout.AGENTS)
    return [line for line in lines if layout.parse_agent(line.key)]


def heartbeats() -> Procedure[list[Heartbeat]]:
    """Read all heartbeats."""
    entries = yield from list_agents()
    return (yield from read_heartbeats(tuple(entry.key for entry in entries)))


def read_heartbeats(keys: tuple[str, ...]) -> Procedure[list[Heartbeat]]:
    """Read the heartbeats at these keys.

    Agents that have left meanwhile are left out, and so is what is no heartbeat of ours.
    """
    bodies: list[bytes | None] = yield GetMany(keys)
    found = []
    for key, body in zip(keys, bodies, strict=True):
        # One that cannot be read says nothing about the others.
        with suppress(RecordError):
            if body is not None:
                found.append(unseal(Heartbeat, body, key))
    return found


def time_of(entries: list[Entry], otherwise_s: float) -> Procedure[float]:
    """What time it is by the clock that dates these entries (UTC seconds).

    Writes what shows that, and removes it. `otherwise_s` is the answer where entries have no dates,
    and to whoever may only read, or finds the store full, who so sees ages by a clock of his own.
    """
    if any(entry.modified_s is not None for entry in entries):
        with suppress(RefusedError, StoreFullError):
            return (yield from store_time(otherwise_s))
    return otherwise_s


def list_nodes(settings: Cluster, otherwise_s: float) -> Procedure[list[dict[str, Any]]]:
    """One dictionary per agent, with Ray's keys and what is free.

    One that has been silent for too long is not alive; its heartbeat is removed some time later.
    `otherwise_s` is as in `time_of`.
    """
    entries = yield from list_agents()
    now_s = yield from time_of(entries, otherwise_s)
    beats = yield from read_heartbeats(tuple(entry.key for entry in entries))
    beaten_s = {entry.key: entry.modified_s for entry in entries}

    def is_there(beat: Heartbeat) -> bool:
        at_s = beaten_s.get(layout.agent(beat.agent))
        return is_alive(beat, None if at_s is None else now_s - at_s, settings)

    return [
        {
            "NodeID": beat.agent,
            "Alive": is_there(beat),
            "NodeManagerHostname": beat.host,
            "NodeManagerAddress": beat.host,
            "AgentSocket": beat.socket,
            "Resources": {name: from_units(units) for name, units in beat.total.items()},
            "Available": {name: from_units(units) for name, units in beat.free.items()},
            "Labels": beat.labels,
            "Draining": beat.draining,
            "RefusedRecords": beat.refused,
            "pid": beat.pid,
        }
        for beat in beats
    ]
