"""Who serves a driver: how many agents and slots there are, and which of them it can reach."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from cloudray.driver.peers import Peer, Peers
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook, batch_limit
from cloudray.protocol.demand import UNIT
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import Heartbeat
from cloudray.store import Store, drive

#: How often agents that started meanwhile are looked for.
_PEERS_S = 1.0


class Serving:
    """Counts agents, and connects to those of this machine."""

    def __init__(self, store: Store, peers: Peers, book: DurationBook, commit_s: float) -> None:
        self._store = store
        self._peers = peers
        self._book = book
        self._commit_s = commit_s
        self._slots, self._agents = 1, 1
        self._peers_s = time.monotonic()

    def limit_of(self, function: str, submitted: int) -> int:
        """How many calls of a function make a full batch."""
        return batch_limit(
            self._book.mean_us(function),
            slots=max(1, self._slots // self._agents),
            commit_s=self._commit_s,
            submitted=submitted,
            agents=self._agents,
        )

    def see(self, beats: Sequence[Heartbeat]) -> None:
        """Take in which agents there are."""
        self._agents = max(1, len(beats))
        cpus = sum(beat.total.get("CPU", 0) // UNIT for beat in beats)
        self._slots = max(1, cpus)
        host = socket.gethostname()
        self._reach([beat for beat in beats if beat.host == host])

    def count(self, greeting: m.Greeting) -> None:
        """An agent that is reached by itself has said what it offers."""
        slots = max(1, greeting.total.get("CPU", 0) // UNIT)
        if len(self._peers) <= 1:
            self._slots, self._agents = slots, 1
        else:
            self._slots += slots
            self._agents += 1

    def look(self) -> None:
        """Connect to agents that started meanwhile, if it is time to look for some."""
        now_s = time.monotonic()
        if now_s - self._peers_s < _PEERS_S:
            return
        self._peers_s = now_s
        self._reach(drive(self._store, heartbeats()))

    def lost(self, peer: Peer) -> None:
        """An agent hung up: look for others soon."""
        del peer
        self._peers_s = 0.0

    def _reach(self, beats: Sequence[Heartbeat]) -> None:
        known = self._peers.addresses()
        for beat in beats:
            # Who is connected twice hears everything twice.
            if beat.socket not in known:
                self._peers.connect(beat.socket)
