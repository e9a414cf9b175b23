"""Functions that this agent has met, with all that follows from their options."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from cloudray import ids
from cloudray.agent.io import Io
from cloudray.protocol.demand import Demand, fits
from cloudray.protocol.records import Batch, Code, Ending, Job, Shape, unseal
from cloudray.store import envelope, layout
from cloudray.store.base import Get, GetMany, Put
from cloudray.store.procedures import Procedure

#: So many jobs are remembered of which nothing is held, and so many bytes of functions.
MAX_JOBS = 100
MAX_BYTES = 256 << 20
#: The retention class of most jobs.
_USUAL_DAYS = 7


class Kind(msgspec.Struct, frozen=True, cache_hash=True):
    """What executors must have in common to stand in for each other."""

    job: bytes
    #: the job's retention class
    days: int
    #: environment variables, sorted
    env_vars: tuple[tuple[str, str], ...]
    #: what they can import beside what is installed
    code: Code = Code()


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
        self._days: dict[bytes, int] = {}
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

    def days_of(self, job: bytes) -> int:
        """The retention class of a job that was met here."""
        return self._days.get(job, _USUAL_DAYS)

    def note_days(self, job: bytes, days: int) -> None:
        """A job is met, of this retention class."""
        self._days[job] = days

    def job(self, job: bytes) -> Job:
        """The record of a job whose functions have been read."""
        return self._jobs[job]

    def read(self, batch: Batch, job: bytes) -> Procedure[list[Known]]:
        """Read what is not known yet; raises MissingFunctionError, naming the key."""
        if job not in self._jobs:
            key = layout.meta(batch.id)
            body, over = yield GetMany((key, layout.ending(batch.id)))
            if over is not None:
                ending = unseal(Ending, over, layout.ending(batch.id))
                msg = f"nothing of its job is run any more: {ending.reason}"
                raise MissingFunctionError(msg)
            if body is None:
                msg = f"the job's record {key} is gone"
                raise MissingFunctionError(msg)
            self._jobs[job] = unseal(Job, body, key)
            self.note_days(job, ids.days_of(batch.id))
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

    def upload(
        self, identifier: bytes, job: bytes, digest: str, pickled: bytes, *, keep: bool = True
    ) -> Procedure[None]:
        """Store a function, or a package, that a call from a task of ours names.

        `keep`: it will be wanted here as it is.
        """
        if (job, digest) not in self._blobs:
            body = envelope.seal(envelope.Kind.BLOB, pickled)
            yield Put(layout.blob(identifier, digest), body)
            # Only now may a batch of another executor rely on it.
            if keep:
                self._blobs[job, digest] = pickled

    def forget_some(self, in_use: Collection[bytes]) -> None:
        """Forget the functions of jobs that nothing is held of, oldest first, if there are many."""
        size_bytes = sum(map(len, self._blobs.values()))
        for job in [job for job in self._jobs if job not in in_use]:
            if len(self._jobs) <= MAX_JOBS and size_bytes <= MAX_BYTES:
                return
            del self._jobs[job]
            self._days.pop(job, None)
            self._known = {key: known for key, known in self._known.items() if key[0] != job}
            gone = [key for key in self._blobs if key[0] == job]
            size_bytes -= sum(len(self._blobs.pop(key)) for key in gone)

    def _intern(self, shape: Shape, job: bytes, days: int, pickled: bytes) -> Known:
        key = (job, self._encode(shape))
        known = self._known.get(key)
        if known is None:
            kind = Kind(job, days, tuple(sorted(shape.env_vars.items())), shape.code)
            lane = Lane(kind, tuple(sorted(shape.demand.items())))
            known = self._known[key] = Known(shape, lane, shape.demand, pickled)
        return known


def demands_fit(batch: Batch, total: Demand) -> bool:
    """Whether a machine with these totals can run every task of a batch."""
    return all(fits(shape.demand, total) for shape in batch.shapes)
