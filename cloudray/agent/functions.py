"""Functions that this agent has met, with all that follows from their options."""

from __future__ import annotations

import msgspec

from cloudray import ids
from cloudray.agent.io import Io
from cloudray.protocol.demand import Demand, fits
from cloudray.protocol.records import Batch, Job, Shape, unseal
from cloudray.store import envelope, layout
from cloudray.store.base import Get, Put
from cloudray.store.procedures import Procedure


class Kind(msgspec.Struct, frozen=True):
    """What executors must have in common to stand in for each other."""

    job: bytes
    #: the job's retention class
    days: int
    #: environment variables, sorted
    env_vars: tuple[tuple[str, str], ...]


class Lane(msgspec.Struct, frozen=True):
    """What tasks must have in common to stand in one line for a slot."""

    kind: Kind
    #: sorted
    demand: tuple[tuple[str, int], ...]


class Known(msgspec.Struct, frozen=True, eq=False):
    """One function of one job with its options. There is one of each, so identity compares."""

    shape: Shape
    lane: Lane
    demand: Demand
    pickled: bytes


class MissingFunctionError(Exception):
    """A batch names a function that is not in the store."""


class Functions:
    """Reads functions and job records once, and hands out the same object each time."""

    def __init__(self, io: Io) -> None:
        self._io = io
        self._known: dict[tuple[bytes, bytes], Known] = {}
        self._blobs: dict[tuple[bytes, str], bytes] = {}
        self._jobs: dict[bytes, Job] = {}
        self._encode = msgspec.msgpack.Encoder().encode

    def all_of(self, batch: Batch, job: bytes) -> list[Known] | None:
        """A batch's functions, if none of them has to be read first."""
        found = []
        for shape in batch.shapes:
            known = self._known.get((job, self._encode(shape)))
            if known is None:
                return None
            found.append(known)
        return found if job in self._jobs else None

    def job(self, job: bytes) -> Job:
        """The record of a job whose functions have been read."""
        return self._jobs[job]

    def read(self, batch: Batch, job: bytes) -> Procedure[list[Known]]:
        """Read what is not known yet; raises MissingFunctionError, naming the key."""
        if job not in self._jobs:
            key = layout.meta(batch.id)
            body = yield Get(key)
            if body is None:
                msg = f"the job's record {key} is gone"
                raise MissingFunctionError(msg)
            self._jobs[job] = unseal(Job, body, key)
        found = []
        for shape in batch.shapes:
            pickled = self._blobs.get((job, shape.function))
            if pickled is None:
                key = layout.blob(batch.id, shape.function)
                body = yield Get(key)
                if body is None:
                    msg = f"the function {shape.name} is not at {key}"
                    raise MissingFunctionError(msg)
                pickled = bytes(envelope.open_sealed(envelope.Kind.BLOB, body, key))
                self._blobs[job, shape.function] = pickled
            found.append(self._intern(shape, job, ids.days_of(batch.id), pickled))
        return found

    def upload(self, identifier: bytes, job: bytes, digest: str, pickled: bytes) -> Procedure[None]:
        """Store a function that a task of ours wants to call."""
        if (job, digest) not in self._blobs:
            body = envelope.seal(envelope.Kind.BLOB, pickled)
            yield Put(layout.blob(identifier, digest), body)
            # Only now may a batch of another executor rely on it.
            self._blobs[job, digest] = pickled

    def _intern(self, shape: Shape, job: bytes, days: int, pickled: bytes) -> Known:
        key = (job, self._encode(shape))
        known = self._known.get(key)
        if known is None:
            kind = Kind(job, days, tuple(sorted(shape.env_vars.items())))
            lane = Lane(kind, tuple(sorted(shape.demand.items())))
            known = self._known[key] = Known(shape, lane, shape.demand, pickled)
        return known


def demands_fit(batch: Batch, total: Demand) -> bool:
    """Whether a machine with these totals can run every task of a batch."""
    return all(fits(shape.demand, total) for shape in batch.shapes)
