"""The other agents of the cluster, as far as their heartbeats show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from cloudray.protocol.leases import is_frugal
from cloudray.protocol.records import Cluster
from cloudray.store import layout
from cloudray.store.base import Entry

#: So many other agents are asked at a time whether they are idle.
ASKED = 16
#: A heartbeat that stands still for so many scans is removed, where nobody watched.
BURIED_SCANS = 10


def etags_of(heartbeats: Iterable[Entry]) -> dict[str, str]:
    """By agent, the ETag of its heartbeat, which changes with every beat."""
    return {entry.key.removeprefix(layout.AGENTS): entry.etag for entry in heartbeats}


class Others:
    """Remembers since when each heartbeat has been the same, on this agent's clock."""

    def __init__(self, me: str, settings: Cluster, clock: Callable[[], float], rng: Random) -> None:
        """`me` is the agent that looks at the others."""
        self._me = me
        self._settings = settings
        self._clock = clock
        self._rng = rng
        #: those whose heartbeats were there at the last look
        self.ids: set[str] = set()
        #: by agent, its heartbeat's ETag and since when it is this one
        self._met: dict[str, tuple[str, float]] = {}

    def meet(self, etags: dict[str, str]) -> None:
        """Take in a listing of all heartbeats."""
        now_s = self._clock()
        self.ids = etags.keys() - {self._me}
        before = {agent: met for agent, met in self._met.items() if etags.get(agent) == met[0]}
        self._met = {agent: before.get(agent, (etag, now_s)) for agent, etag in etags.items()}

    def silent(self) -> list[str]:
        """Those whose heartbeats have stood still for so many scans that they must be dead."""
        return self._still_for(BURIED_SCANS * self._settings.scan_s)

    def whom_to_ask(self) -> list[str]:
        """Some agents that may be idle: where there are many, not each is asked each time.

        Where requests cost, those that hold nothing are known by how rarely they show themselves.
        """
        others = sorted(self.ids)
        if len(others) > ASKED and is_frugal(self._settings):
            others = self._still_for(2 * self._settings.heartbeat_s) or others
        return others if len(others) <= ASKED else self._rng.sample(others, ASKED)

    def _still_for(self, duration_s: float) -> list[str]:
        before_s = self._clock() - duration_s
        return [agent for agent in sorted(self.ids) if self._met[agent][1] < before_s]
