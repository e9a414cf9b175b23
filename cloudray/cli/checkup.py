"""What `cloudray doctor` looks at, one function for each thing; none raises."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from importlib import metadata
from urllib.parse import urlsplit

import msgspec

from cloudray.cli.advice import advise, endpoint_of, how_to_renew
from cloudray.cli.clusters import how_to_make, missing_folder, start_worker
from cloudray.configuration import Configuration
from cloudray.durations import show_duration
from cloudray.protocol.demand import python_tag
from cloudray.protocol.endings import store_time
from cloudray.protocol.joining import WrongKeyError, look
from cloudray.protocol.nodes import list_agents
from cloudray.protocol.reasons import show_python
from cloudray.protocol.records import Cluster
from cloudray.protocol.standing import Standing, survey
from cloudray.store import (
    Kind,
    RecordError,
    Reliable,
    Store,
    StoreError,
    drive,
    new_nonce,
    open_cluster,
    seal,
)
from cloudray.store.clocks import TOLERATED_S, describe_skew
from cloudray.store.credentials import EXTRA
from cloudray.store.envelope import VERSION
from cloudray.store.probe import FOLDER, probe
from cloudray.store.profiles import source_of
from cloudray.version import __version__

#: The store is given so long, in seconds, before it counts as away.
_PATIENCE_S = 5.0
#: Of so many requests each the median is shown.
_ROUNDS = 5
#: A put or get that takes longer, in seconds, makes everything slow.
_SLOW_S = 0.5
#: Clocks that differ by less, in seconds, are as good as the same: the store tells whole seconds.
_SAME_S = 2.0
_LIBRARIES = ("obstore", "msgspec", "cloudpickle", "uvloop", "aiobotocore", "boto3", "s3fs")
#: Installed by who wants them; uvloop where it exists.
_OPTIONAL = {"uvloop", "aiobotocore", "boto3", "s3fs"}


class Level(StrEnum):
    """How bad a finding is."""

    #: as it should be
    OK = "ok"
    #: works, but somebody should know
    WARNING = "warning"
    #: does not work
    FAILURE = "failure"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    #: what was looked at
    subject: str
    level: Level
    #: what was found
    found: str
    #: what to do; empty when there is nothing to do
    advice: str = ""


def examine(chosen: Configuration) -> Iterator[Finding]:
    """Look at everything, one after the other; stops where nothing more can be found out."""
    yield _versions()
    address = chosen.address or ""
    yield from _address(chosen)
    missing = missing_folder(address)
    if missing:
        yield Finding(
            "store",
            Level.FAILURE,
            f"there is no directory {missing}",
            f"Start a worker there, which makes it: {start_worker(address)}",
        )
        return
    try:
        raw = open_cluster(address, key=chosen.key)
    except (ValueError, StoreError) as error:
        yield _failure("store", error, address)
        return
    store = Reliable(raw, give_up_s=_PATIENCE_S)
    try:
        yield from _store(store, chosen)
    finally:
        store.close()


def _versions() -> Finding:
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            if name not in _OPTIONAL:
                missing.append(name)
    return Finding(
        "versions",
        Level.WARNING if missing else Level.OK,
        f"CloudRay {__version__}, Python {platform.python_version()}, {', '.join(found)}"
        + (f"; missing: {', '.join(missing)}" if missing else ""),
        f"pip install {' '.join(missing)}" if missing else "",
    )


def _address(chosen: Configuration) -> Iterator[Finding]:
    address = chosen.address or ""
    yield Finding("address", Level.OK, address)
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        yield _aws(address)
    elif scheme in ("gs", "az"):
        yield _others(scheme, os.environ)
    if chosen.key is not None:
        yield Finding("key", Level.OK, f"{chosen.key.id}, from {chosen.key.source}")


def _aws(address: str) -> Finding:
    try:
        source = source_of(os.environ)
    except StoreError as error:
        return _failure("credentials", error, address)
    profile = f" of the profile {source.profile}" if source.profile else ""
    where = {
        "keys": "the environment (AWS_ACCESS_KEY_ID)",
        "web identity": f"a web identity token ({source.detail})",
        "unsigned": "none: requests are not signed (AWS_SKIP_SIGNATURE)",
        "sso": f"single sign-on{profile}",
        "login": f"`aws login`{profile}",
        "process": f"the command{profile}: {source.detail}",
        "role": f"a role{profile}",
        "file": f"{source.detail}, profile {source.profile}",
        "container": "the role of this container",
        "machine": "the role of this machine, as neither environment nor profile has any",
    }.get(source.kind, source.kind)
    if endpoint_of(address) or source.kind == "unsigned":
        return Finding("credentials", Level.OK, f"from {where}{_shown_key(source.kind)}")
    try:
        who = _caller(source.profile)
    except ImportError:
        return Finding(
            "credentials",
            Level.OK,
            f"from {where}{_shown_key(source.kind)}",
            f"To see whose they are: {EXTRA}",
        )
    except Exception as error:  # noqa: BLE001 - botocore's have no common class worth importing
        return Finding(
            "credentials",
            Level.WARNING,
            f"from {where}, but AWS does not say whose they are: {error}",
            how_to_renew(),
        )
    return Finding("credentials", Level.OK, f"{who}, from {where}")


def _shown_key(kind: str) -> str:
    """The access key, which is no secret."""
    return f", {os.environ['AWS_ACCESS_KEY_ID']}" if kind == "keys" else ""


def _caller(profile: str | None) -> str:
    """Who AWS says we are."""
    import boto3
    from botocore.config import Config

    quickly = Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 1})
    session = boto3.Session(profile_name=profile)
    client = session.client("sts", config=quickly, region_name=session.region_name or "us-east-1")
    return str(client.get_caller_identity()["Arn"])


def _others(scheme: str, environ: Mapping[str, str]) -> Finding:
    prefix = "GOOGLE_" if scheme == "gs" else "AZURE_"
    named = sorted(name for name in environ if name.startswith(prefix))
    if named:
        return Finding("credentials", Level.OK, f"from the environment ({', '.join(named)})")
    return Finding("credentials", Level.OK, "from what this machine is signed in with")


def _store(store: Store, chosen: Configuration) -> Iterator[Finding]:
    address = chosen.address or ""
    try:
        record = drive(store, look(address, chosen.key))
    except WrongKeyError as error:
        yield _failure("key", error, address)
        return
    except RecordError as error:
        yield _failure("record", error, address)
        return
    except StoreError as error:
        yield _failure("store", error, address)
        return
    yield Finding("store", Level.OK, "it answers, and may be read")
    yield _record(record, address)
    yield _checked("put-if-absent", address, lambda: _probe(store))
    yield _checked("clock", address, lambda: _clock(store))
    yield _checked("latency", address, lambda: _latency(store))
    if record is not None:
        yield _checked("agents", address, lambda: _agents(store, record, address))


def _checked(subject: str, address: str, look_at: Callable[[], Finding]) -> Finding:
    try:
        return look_at()
    except (StoreError, RecordError) as error:
        return _failure(subject, error, address)


def _failure(subject: str, error: Exception, address: str) -> Finding:
    return Finding(subject, Level.FAILURE, str(error), advise(error, address))


def _record(record: Cluster | None, address: str) -> Finding:
    if record is None:
        return Finding(
            "record",
            Level.WARNING,
            "there is no cluster yet",
            how_to_make(address),
        )
    signed = f", its key is {record.key_id}" if record.key_id else ", it has no key"
    return Finding(
        "record",
        Level.OK,
        f"protocol {VERSION}, lease {record.lease_s:g} s, heartbeat "
        f"{record.heartbeat_s:g} s, commit {record.commit_s:g} s{signed}",
    )


def _probe(store: Store) -> Finding:
    probe(store)
    return Finding("put-if-absent", Level.OK, "it holds, also for eight at once")


def _clock(store: Store) -> Finding:
    before_s = time.time()
    theirs_s = drive(store, store_time(float("nan")))
    if math.isnan(theirs_s):
        return Finding("clock", Level.OK, "this store tells no times")
    # It was written some time between, and its time is in whole seconds.
    ahead_s = (before_s + time.time()) / 2 - (theirs_s + 0.5)
    if abs(ahead_s) > TOLERATED_S:
        said, _, advice = describe_skew(ahead_s).partition(". ")
        return Finding("clock", Level.WARNING, said, advice)
    if abs(ahead_s) <= _SAME_S:
        return Finding("clock", Level.OK, "as the store's")
    side = "ahead of" if ahead_s > 0 else "behind"
    return Finding("clock", Level.OK, f"{show_duration(abs(ahead_s))} {side} the store's")


def _latency(store: Store) -> Finding:
    key = f"{FOLDER}{new_nonce().hex()}.latency"
    body = seal(Kind.PROBE, bytes(1000))
    took: dict[str, list[float]] = {"put": [], "get": [], "list": []}

    def measure(what: str, request: Callable[[], object]) -> None:
        began_s = time.perf_counter()
        request()
        took[what].append(time.perf_counter() - began_s)

    try:
        for _ in range(_ROUNDS):
            measure("put", lambda: store.put(key, body))
            measure("get", lambda: store.get(key))
            measure("list", lambda: store.list(FOLDER, limit=10))
    finally:
        store.delete([key])
    medians_s = {what: statistics.median(times) for what, times in took.items()}
    shown = ", ".join(f"{what} {1000 * median_s:.1f} ms" for what, median_s in medians_s.items())
    if max(medians_s.values()) > _SLOW_S:
        return Finding(
            "latency",
            Level.WARNING,
            f"{shown} (median of {_ROUNDS})",
            "Tasks will wait for this store: use a bucket in a region nearby.",
        )
    return Finding("latency", Level.OK, f"{shown} (median of {_ROUNDS})")


def _agents(store: Store, record: Cluster, address: str) -> Finding:
    found = drive(store, survey(record, time.time()))
    alive = found.alive
    unread = len(drive(store, list_agents())) - len(found.agents)
    shown = f"{len(alive)} alive" + _silent(found)
    if unread > 0:
        return Finding(
            "agents",
            Level.WARNING,
            f"{shown}; the heartbeats of {unread} cannot be read",
            "They run another version of CloudRay, or have another key: bring them up to date.",
        )
    if not alive:
        return Finding("agents", Level.WARNING, shown, f"Start one: {start_worker(address)}")
    ours = show_python(python_tag())
    pythons = sorted({agent.python for agent in alive if agent.python})
    if pythons and ours not in pythons:
        return Finding(
            "agents",
            Level.WARNING,
            f"{shown}, with Python {', '.join(pythons)}; this is Python {ours}",
            f"Tasks from here wait for an agent with Python {ours}: start one.",
        )
    refused = sum(agent.refused for agent in alive)
    if refused:
        return Finding(
            "agents",
            Level.WARNING,
            f"{shown}; they have refused {refused} stored records",
            "The logs of the agents say which, and what to do.",
        )
    versions = sorted({agent.version for agent in alive if agent.version})
    if versions not in ([], [__version__]):
        return Finding(
            "agents",
            Level.WARNING,
            f"{shown}, with CloudRay {', '.join(versions)}; this is {__version__}",
            "Bring all to one version when you can.",
        )
    return Finding("agents", Level.OK, f"{shown}, Python {', '.join(pythons)}")


def _silent(found: Standing) -> str:
    dead = len(found.agents) - len(found.alive)
    return f", {dead} silent for too long" if dead else ""
