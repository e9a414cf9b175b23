"""Jobs, whose drivers may be gone: which there are, and what they have in the queue.

What is not over of a job is in the queue, under names that begin with the job's id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from cloudray import ids
from cloudray.configuration import RETENTIONS
from cloudray.exceptions import ObjectLostError
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.listing import PAGE
from cloudray.protocol.records import FORCE, Ending, Job, Verb, Word, unseal
from cloudray.store import layout
from cloudray.store.base import Entry as Line
from cloudray.store.base import Get, GetMany, List
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure
from cloudray.store.signing import TamperedError

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
#: How many objects are read at once.
_MANY = 64


class Listed(msgspec.Struct, frozen=True):
    """A job as it stands in the bucket."""

    #: its retention class
    days: int
    #: 10 bytes
    id: bytes
    #: None when it is gone
    job: Job | None = None
    #: None while it lasts
    ending: Ending | None = None
    #: when it began by the store's clock (UTC seconds), where a listing showed that
    started_s: int | None = None

    @property
    def name(self) -> str:
        """What it is, or was, called."""
        if self.job is not None:
            return self.job.name
        return "" if self.ending is None else self.ending.name

    @property
    def root(self) -> bytes:
        """What stands for the job where its keys are spelled: an id under it."""
        return ids.batch_prefix(self.days, self.id, bytes(ids.ID_BYTES))


# -- which jobs there are ------------------------------------------------------------------------


def list_jobs() -> Procedure[list[Listed]]:
    """List all jobs, oldest first.

    A page of the listing shows many small jobs; what is left of a large one is skipped.
    """
    found: dict[tuple[int, bytes], int | None] = {}
    after = ""
    while True:
        page: list[Line] = yield List(layout.JOBS, after, PAGE)
        for line in page:
            parsed = layout.parse_job(line.key)
            if parsed is None:
                continue
            days, job, name = parsed
            found.setdefault((days, job), None)
            if name == "meta":
                found[days, job] = line.modified_s
        if len(page) < PAGE:
            break
        last = layout.parse_job(page[-1].key)
        after = page[-1].key if last is None else layout.beyond_job(last[0], last[1])
    listed = [Listed(days, job, started_s=began_s) for (days, job), began_s in found.items()]
    return sorted((yield from _read_metas(listed, _readable)), key=lambda one: one.id)


def find_job(identifier: bytes) -> Procedure[Listed | None]:
    """Find a job by its ten bytes, whatever its retention class."""
    candidates = [Listed(days, identifier) for days in RETENTIONS]
    for one in (yield from _read_metas(candidates)):
        if one.job is not None or one.ending is not None:
            return one
    return None


def read_job(identifier: bytes) -> Procedure[Listed]:
    """Read the records of the job that a batch or object belongs to."""
    one = Listed(ids.days_of(identifier), ids.job_of(identifier))
    return (yield from _read_metas([one]))[0]


def _read_metas(
    listed: list[Listed], opened: Callable[..., Any] | None = None
) -> Procedure[list[Listed]]:
    """Read the records of jobs; `opened` is what `trusted` is, or does more than that."""
    opened = opened or trusted
    keys = [key for one in listed for key in (layout.meta(one.root), layout.ending(one.root))]
    bodies = yield from read_all(keys)
    return [
        msgspec.structs.replace(
            one,
            job=opened(Job, meta, layout.meta(one.root)),
            ending=opened(Ending, end, layout.ending(one.root)),
        )
        for one, meta, end in zip(listed, bodies[::2], bodies[1::2], strict=True)
    ]


def trusted(kind: type[_R], body: bytes | None, key: str) -> _R | None:
    """A record, unless it is none of ours: then it counts as absent, and the rest is read."""
    try:
        return None if body is None else unseal(kind, body, key)
    except TamperedError:
        return None


def _readable(kind: type[_R], body: bytes | None, key: str) -> _R | None:
    """What `trusted` is, but for one among many: where it cannot be read that is reported."""
    try:
        return trusted(kind, body, key)
    except RecordError as error:
        report(error)
        return None


def report(error: RecordError) -> None:
    """Tell of a record that is left alone, because others are to be seen to as well."""
    if not isinstance(error, TamperedError):  # which the store has reported
        _log.warning("left alone: %s", error)


def read_all(keys: list[str]) -> Procedure[list[bytes | None]]:
    """Read any number of objects, not too many of them at once."""
    bodies: list[bytes | None] = []
    for first in range(0, len(keys), _MANY):
        bodies += yield GetMany(tuple(keys[first : first + _MANY]))
    return bodies


# -- what they have in the queue -----------------------------------------------------------------


def queued(job: bytes, *, carried: bool = False) -> Procedure[dict[QueueName, int]]:
    """The batches of a job in the queue, with their last claims' numbers (0: none).

    Claims without their batch are left out, unless `carried`: what a message brought may be
    claimed, and run, before its put arrives. A page shows the whole of a short queue; in a long
    one the other jobs' part of each folder is skipped.
    """
    entries: set[str] = set()
    claims: dict[str, int] = {}
    after = ""
    while True:
        page: list[Line] = yield List(layout.QUEUE, after, PAGE)
        for line in page:
            parsed = layout.parse_queue(line.key)
            if parsed is None or not line.key.startswith(_ours(line.key, job)):
                continue
            stem, number = parsed
            if number:
                claims[stem] = max(number, claims.get(stem, 0))
            else:
                entries.add(stem)
        if len(page) < PAGE:
            break
        after = _next_place(page[-1].key, job)
    found: dict[QueueName, int] = {}
    for stem in sorted(entries | claims.keys() if carried else entries):
        name = layout.parse_stem(stem)
        if name is not None:
            found[name] = claims.get(stem, 0)
    return found


def _ours(key: str, job: bytes) -> str:
    return layout.queued_by(layout.queue_folder(key), job)


def _next_place(key: str, job: bytes) -> str:
    """Where to go on listing: behind this key, and behind what cannot be of the job."""
    ours = _ours(key, job)
    if key.startswith(ours):
        return key
    if key < ours:
        # "," sorts just before the "-" behind the job's id.
        return ours[:-1] + ","
    return layout.queue_folder(key) + "~"


# -- ending what runs ----------------------------------------------------------------------------


def cancel_all(
    job: bytes, *, force: bool, retire: Callable[[QueueName], Procedure[None]]
) -> Procedure[int]:
    """Say CANCELLED of everything that a job has in the queue; returns of how many tasks.

    What a running task submits meanwhile is in the next listing, until one shows nothing new;
    whatever comes later is an orphan. A batch of which all is said leaves the queue by `retire`,
    as whoever claims it would do.
    """
    said = (FORCE,) if force else ()
    cancelled = 0
    seen: set[bytes] = set()
    while True:
        fresh = [name for name in (yield from queued(job)) if name.batch not in seen]
        if not fresh:
            return cancelled
        for name in fresh:
            seen.add(name.batch)
            try:
                cancelled += yield from _cancel(name, said, retire)
            except RecordError as error:
                report(error)


def _cancel(
    name: QueueName, said: tuple[bytes, ...], retire: Callable[[QueueName], Procedure[None]]
) -> Procedure[int]:
    journal = Journal(name.batch, name.size)
    yield from journals.catch_up(journal)
    left = [index for index in range(name.size) if index not in journal.decided]
    words = [Word(index, Verb.CANCELLED, said) for index in left]
    yield from journals.append(journal, words, claim=0)
    if journal.complete:
        yield from retire(name)
    return sum(journal.decided[index].verb is Verb.CANCELLED for index in left)


# -- why a value is not there --------------------------------------------------------------------


def explain_loss(identifier: bytes, what: str) -> Procedure[ObjectLostError]:
    """Why a value that was waited for, or should be stored, is not there.

    `what` is said when its job is there and has not ended.
    """
    listed = yield from read_job(identifier)
    ending = listed.ending
    if ending is not None:
        return lost(identifier, ending)
    if listed.job is None:
        what = (
            "this cluster has no such job: it belongs to another cluster, or its job was deleted, "
            "or its retention is over"
        )
    return ObjectLostError(identifier.hex(), reason=what)


def lost(identifier: bytes, ending: Ending) -> ObjectLostError:
    """The error for a value of a job that has ended."""
    when = datetime.fromtimestamp(ending.at_s, UTC)
    return ObjectLostError(identifier.hex(), date=when, reason=ending.reason)


def read_ending(identifier: bytes) -> Procedure[Ending | None]:
    """Whether the job of an id has ended."""
    key = layout.ending(identifier)
    try:
        body: bytes | None = yield Get(key)
    except TamperedError:
        return None  # nobody of us has ended it
    return None if body is None else unseal(Ending, body, key)
