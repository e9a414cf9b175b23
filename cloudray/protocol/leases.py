"""When is an agent dead? When its heartbeat has not changed for a lease, as we add it up."""

from __future__ import annotations

from cloudray.protocol.records import Cluster, Heartbeat

#: An agent that holds nothing shows itself rarely: it is taken for gone after so many leases.
IDLE_LEASES = 10
#: ... and beats this many times more rarely than one that holds something.
_IDLE_BEATS = 6
#: Times of objects are in whole seconds, and a heartbeat takes its time.
_MARGIN_S = 2.0


def is_frugal(settings: Cluster) -> bool:
    """Whether scans are rarer than leases, as where requests cost: nobody looks for fun."""
    return settings.scan_s > settings.lease_s


def idle_beat_s(settings: Cluster) -> float:
    """How often an agent beats that holds nothing."""
    return settings.heartbeat_s * (_IDLE_BEATS if is_frugal(settings) else 1)


def silence_limit_s(settings: Cluster, *, idle: bool) -> float:
    """How long an agent may be silent that is alive, in seconds: one that does nothing, longer."""
    usual_s = idle_beat_s(settings) if idle else settings.heartbeat_s
    return settings.lease_s + usual_s + _MARGIN_S


def is_alive(beat: Heartbeat, silent_s: float | None, settings: Cluster) -> bool:
    """Whether an agent is not silent for too long; None where the store tells no times."""
    return silent_s is None or silent_s <= silence_limit_s(settings, idle=beat.idle)


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
