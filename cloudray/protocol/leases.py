"""When is an agent dead? When its heartbeat has not changed for a lease, as we add it up."""

from __future__ import annotations


class Observer:
    """Adds up, on the observer's own clock, how long each heartbeat has stood still.

    Only gaps shorter than a third of the lease between two successful looks count. So when the
    observer was paused, or the store was away, the gap is not held against anybody: no clock of
    another machine is ever compared, and a pause of ours condemns nobody.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._last_look_s: float | None = None
        self._seen: dict[str, str] = {}
        self._still_s: dict[str, float] = {}

    def look(self, now_s: float, etags: dict[str, str], watched: set[str]) -> set[str]:
        """Take in a listing of `agents/`; returns those of `watched` that are dead.

        An agent that has no heartbeat at all is watched the same way, from our first sight on.
        """
        gap_s = 0.0 if self._last_look_s is None else now_s - self._last_look_s
        self._last_look_s = now_s
        counted_s = gap_s if gap_s < self._lease_s / 3 else 0.0
        dead = set()
        for agent in watched:
            etag = etags.get(agent, "")
            if self._seen.get(agent) != etag:
                self._seen[agent] = etag
                self._still_s[agent] = 0.0
                continue
            self._still_s[agent] += counted_s
            if self._still_s[agent] >= self._lease_s:
                dead.add(agent)
        for agent in self._seen.keys() - watched:
            del self._seen[agent], self._still_s[agent]
        return dead
