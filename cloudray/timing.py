"""The times of the protocol, which everyone in a cluster shares, by the kind of place it is in."""

from __future__ import annotations

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """The times of the protocol, in seconds."""

    heartbeat_s: float
    #: an agent whose heartbeat stands still for this long is taken for dead
    lease_s: float
    #: results are published at most this long after they are there
    commit_s: float
    #: how often an agent that hears no bell scans the queue
    scan_s: float


#: One driver's own cluster on this machine.
EMBEDDED = Timing(heartbeat_s=0.5, lease_s=2.0, commit_s=0.1, scan_s=2.0)
#: A directory that several agents share.
SHARED_DIRECTORY = Timing(heartbeat_s=0.5, lease_s=3.0, commit_s=0.1, scan_s=0.5)
#: Object storage.
REMOTE = Timing(heartbeat_s=10.0, lease_s=30.0, commit_s=1.0, scan_s=60.0)


def timing_for(url: str) -> Timing:
    """The times that a new cluster at this address gets.

    >>> timing_for("s3://bucket/prefix").lease_s
    30.0
    """
    return SHARED_DIRECTORY if url.startswith(("file:", "memory:")) else REMOTE
