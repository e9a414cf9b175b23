"""What a driver finds when it joins: who serves the cluster, what waits, whether clocks agree.

Two listings, a look at what the driver itself has just written, and the heartbeats of those who
are alive. That look shows the store's time, so no clock of two machines is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloudray.protocol.leases import silence_limit_s
from cloudray.protocol.nodes import list_agents, read_heartbeats
from cloudray.protocol.records import Cluster, Heartbeat
from cloudray.store import layout
from cloudray.store.base import Entry, Head, List
from cloudray.store.procedures import Procedure

#: More of the queue is not listed to say how much waits.
_PAGE = 1000


class Arrival(msgspec.Struct, frozen=True):
    """What was found."""

    #: of the agents that are alive
    beats: Sequence[Heartbeat] = ()
    #: agents that have fallen silent without leaving
    silent: int = 0
    #: agents that are alive, but whose heartbeats this version cannot read
    unreadable: int = 0
    #: tasks of batches in the queue, running ones too
    pending: int = 0
    #: there may be more of them
    more: bool = False
    #: how far ahead of the store's clock ours is, in seconds; None where that tells no times
    ahead_s: float | None = None


def look_around(settings: Cluster, written: str, written_s: float) -> Procedure[Arrival]:
    """Look around in a cluster; `written` is a key that was written at `written_s` of our clock."""
    mine: Entry | None = yield Head(written)
    store_s = None if mine is None else mine.modified_s
    entries = yield from list_agents()
    heard = {
        entry.key: None
        if store_s is None or entry.modified_s is None
        else max(0, store_s - entry.modified_s)
        for entry in entries
    }
    longest_s = silence_limit_s(settings, idle=True)
    # Who may be alive: of those that have died long ago not even the heartbeat is read.
    keys = tuple(key for key, silent_s in heard.items() if (silent_s or 0) <= longest_s)
    beats = yield from read_heartbeats(keys)
    living = [
        beat
        for beat in beats
        if (heard.get(layout.agent(beat.agent)) or 0) <= silence_limit_s(settings, idle=beat.idle)
    ]
    page: list[Entry] = yield List(layout.QUEUE, limit=_PAGE)
    return Arrival(
        living,
        len(entries) - len(keys) + len(beats) - len(living),
        len(keys) - len(beats),
        sum(map(_tasks_of, page)),
        len(page) == _PAGE,
        None if store_s is None else written_s - store_s,
    )


def _tasks_of(entry: Entry) -> int:
    """How many tasks a queue entry has; its claims have none."""
    parsed = layout.parse_queue(entry.key)
    if parsed is None or parsed[1] != 0:
        return 0
    name = layout.parse_stem(parsed[0])
    return 0 if name is None else name.size
