"""Joining a cluster: its record says which protocol and which times everybody uses."""

from __future__ import annotations

from cloudray.protocol.records import Cluster, seal, unseal
from cloudray.settings import Timing, timing_for
from cloudray.store import layout
from cloudray.store.base import Create, Get
from cloudray.store.procedures import Procedure


def join(url: str, timing: Timing | None = None) -> Procedure[Cluster]:
    """Read the cluster's record; the first to come creates it.

    Raises `RecordError` when something else lies there, or a newer protocol does.
    """
    body: bytes | None = yield Get(layout.CLUSTER)
    if body is None:
        times = timing or timing_for(url)
        fresh = seal(Cluster(times.heartbeat_s, times.lease_s, times.commit_s, times.scan_s))
        body = yield Create(layout.CLUSTER, fresh)
        if body is None:
            body = fresh
    return unseal(Cluster, body, layout.CLUSTER)
