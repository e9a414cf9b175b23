"""Joining a cluster: its record says which protocol and which times everybody uses."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from cloudray.keyring import PLACES, ClusterKey
from cloudray.protocol.records import Cluster, seal, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Entry, Get, List, StoreError
from cloudray.store.envelope import RecordError, VersionError, new_nonce
from cloudray.store.procedures import Procedure
from cloudray.store.signing import TamperedError
from cloudray.timing import Timing, timing_for

#: The folders of a cluster, whose record may have gone before them.
_FOLDERS = re.compile(r"agents|bell|probe|queue|t\d+")
_SHOWN = 3


class WrongKeyError(StoreError):
    """The cluster has a key and this process has none, or another: the message says which."""


def look(url: str, key: ClusterKey | None = None) -> Procedure[Cluster | None]:
    """Read the cluster's record, if there is one.

    Raises `WrongKeyError` unless `key` is the key of the cluster, or neither is there;
    `RecordError` for a record that cannot be read, or of a newer protocol, and `StoreError` when
    there is none, but something else.
    """
    claimed: bytes | None
    if key is not None:
        # A range is not checked: with another key this record could not be read, only refused.
        limit_bytes = layout.limit_of(layout.CLUSTER)
        claimed = yield Get(layout.CLUSTER, 0, limit_bytes)
        if claimed is not None:
            _check_key(url, _read(claimed), key)
    # What it claims is not trusted: who forges it gains that nobody with the key comes in.
    try:
        body: bytes | None = yield Get(layout.CLUSTER)
    except TamperedError as error:
        if key is None:
            # Damaged; or the cluster has a key, as it says itself: again a range, not checked.
            claimed = yield Get(layout.CLUSTER, 0, layout.limit_of(layout.CLUSTER))
            if claimed is not None:
                _check_key(url, _read(claimed), key)
        raise RecordError(f"{error} Restore that record, or name another place.") from error
    if body is not None:
        return _check_queue(url, _check_key(url, _read(body), key))
    found: list[Entry] = yield List("", limit=_SHOWN + 1)
    if any(entry.key == layout.CLUSTER for entry in found):
        # Somebody has created it between the two requests.
        return (yield from look(url))
    others = [entry.key for entry in found if not _FOLDERS.fullmatch(entry.key.partition("/")[0])]
    if others:
        more = " and more" if len(others) > _SHOWN else ""
        raise StoreError(
            f"{url} holds no cluster but something else: {', '.join(others[:_SHOWN])}{more}."
            " Name an empty place, or one that does not exist yet."
        )
    return None


def join(
    url: str,
    timing: Timing | None = None,
    *,
    ephemeral: bool = False,
    key: ClusterKey | None = None,
    probed: bool = False,
) -> Procedure[Cluster]:
    """Read the cluster's record; the first to come creates it.

    An `ephemeral` one ends with its only driver. With a `key` a new cluster is one that has this
    key, for good. `probed`: the caller has made sure of the store, which nobody need do again.

    Raises what `look` raises.
    """
    found = yield from look(url, key)
    if found is not None:
        return found
    times = timing or timing_for(url)
    queue = queue_in(url)
    cluster = Cluster(
        times.heartbeat_s,
        times.lease_s,
        times.commit_s,
        times.scan_s,
        ephemeral,
        "" if key is None else key.id,
        queue,
        new_nonce().hex() if queue else "",
        probed,
    )
    try:
        body = yield Create(layout.CLUSTER, seal(cluster))
    except TamperedError:
        # Somebody without our key was faster: that is told as if he had been there before.
        yield from look(url, key)
        raise
    return cluster if body is None else _check_key(url, _read(body), key)


def queue_in(url: str) -> str:
    """The SQS queue that a cluster's URL names as its doorbell (`?sqs=`); empty when none is.

    Raises ValueError when what it names is no queue.

    >>> queue_in("s3://bucket/prefix?sqs=https://sqs.eu-west-1.amazonaws.com/123456789012/bell")
    'https://sqs.eu-west-1.amazonaws.com/123456789012/bell'
    """
    named = parse_qs(urlsplit(url).query).get("sqs")
    if not named:
        return ""
    from cloudray.bells.sqs import check_queue

    check_queue(named[-1])
    return named[-1]


def _read(body: bytes) -> Cluster:
    try:
        return unseal(Cluster, body, layout.CLUSTER)
    except VersionError:
        raise
    except RecordError as error:
        msg = f"{error}. Restore that record, or name another place."
        raise RecordError(msg) from error


def _check_queue(url: str, cluster: Cluster) -> Cluster:
    """The cluster, unless the URL names another doorbell than it has: that is chosen once."""
    named = queue_in(url)
    if named and named != cluster.sqs:
        has = f"rings by the queue {cluster.sqs}" if cluster.sqs else "was made without a queue"
        raise ValueError(
            f"{url} names a queue, but this cluster {has}, for everybody must ring and listen at "
            "the same place: leave sqs= out, or name another place for a new cluster."
        )
    return cluster


def _check_key(url: str, cluster: Cluster, key: ClusterKey | None) -> Cluster:
    """The cluster, if this is its key, or there is none."""
    if key is None and cluster.key_id:
        raise WrongKeyError(
            f"{url} has a key (its id is {cluster.key_id}), and none was found here. Keys are "
            f"looked for in {PLACES}. Ask for it whoever made the cluster."
        )
    if key is not None and not cluster.key_id:
        raise WrongKeyError(
            f"{url} has no key, and one was found here ({key.id}, from {key.source}): whoever may "
            "write there could make this process run anything. With the key, name an empty place, "
            "where it makes a new cluster; to use this one, leave the key out."
        )
    if key is not None and key.id != cluster.key_id:
        raise WrongKeyError(
            f"{url} has the key {cluster.key_id}, and the one found here is {key.id} (from "
            f"{key.source}). Keys are looked for in {PLACES}; `cloudray key id FILE` tells "
            "the id of the key in a file."
        )
    return cluster
