"""Joining a cluster: its record says which protocol and which times everybody uses."""

from __future__ import annotations

import re

from cloudray.protocol.records import Cluster, seal, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Entry, Get, List, StoreError
from cloudray.store.envelope import RecordError, VersionError
from cloudray.store.procedures import Procedure
from cloudray.timing import Timing, timing_for

#: The folders of a cluster, whose record may have gone before them.
_FOLDERS = re.compile(r"agents|probe|queue|t\d+")
_SHOWN = 3


def look(url: str) -> Procedure[Cluster | None]:
    """Read the cluster's record, if there is one.

    Raises `RecordError` for a record that cannot be read, or of a newer protocol, and
    `StoreError` when there is none, but something else.
    """
    body: bytes | None = yield Get(layout.CLUSTER)
    if body is not None:
        try:
            return unseal(Cluster, body, layout.CLUSTER)
        except VersionError:
            raise
        except RecordError as error:
            msg = f"{error}. Restore that record, or name another place."
            raise RecordError(msg) from error
    found: list[Entry] = yield List("", limit=_SHOWN + 1)
    others = [entry.key for entry in found if not _FOLDERS.fullmatch(entry.key.partition("/")[0])]
    if others:
        more = " and more" if len(others) > _SHOWN else ""
        raise StoreError(
            f"{url} holds no cluster but something else: {', '.join(others[:_SHOWN])}{more}."
            " Name an empty place, or one that does not exist yet."
        )
    return None


def join(url: str, timing: Timing | None = None, *, ephemeral: bool = False) -> Procedure[Cluster]:
    """Read the cluster's record; the first to come creates it.

    An `ephemeral` one ends with its only driver.

    Raises what `look` raises.
    """
    found = yield from look(url)
    if found is not None:
        return found
    times = timing or timing_for(url)
    fresh = seal(Cluster(times.heartbeat_s, times.lease_s, times.commit_s, times.scan_s, ephemeral))
    body = yield Create(layout.CLUSTER, fresh)
    return unseal(Cluster, fresh if body is None else body, layout.CLUSTER)
