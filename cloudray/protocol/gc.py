"""Garbage: what is left in a bucket that nobody will ever ask for.

Everything here may be interrupted, run again, and run by several at once, beside agents at work:
what is removed was already of no use to anybody, whatever happens meanwhile. What cannot be read is
reported and left alone, with all that it may speak of; the rest is seen to. Ages are differences
between two times of the store's own clock.
"""

from __future__ import annotations

import msgspec

from cloudray import ids
from cloudray.protocol import endings
from cloudray.protocol import journal as journals
from cloudray.protocol.endings import DAY_S, Swept, over_after
from cloudray.protocol.jobs import Listed, list_jobs, queued, report
from cloudray.protocol.journal import Journal
from cloudray.protocol.leases import IDLE_LEASES
from cloudray.protocol.listing import list_all
from cloudray.protocol.records import Cluster, Ending
from cloudray.store import layout
from cloudray.store.base import Delete, Head
from cloudray.store.base import Entry as Line
from cloudray.store.envelope import RecordError
from cloudray.store.probe import FOLDER as PROBES
from cloudray.store.procedures import Procedure
from cloudray.values import codec

#: Older probes (s) are of processes that ended before they could clean up.
_PROBE_S = 3600.0
#: Claims without their batch are left alone until they are so many leases old.
_CLAIM_LEASES = 10
#: So long (s) is waited for the records of a job whose batch is in the queue.
_STRAY_S = DAY_S


class Found(msgspec.Struct, frozen=True):
    """One kind of garbage, in one place."""

    #: what it is, for people
    what: str
    #: the job, agent or batch that it is of
    of: str
    swept: Swept


def collect(
    settings: Cluster, *, otherwise_s: float, dry_run: bool = False
) -> Procedure[list[Found]]:
    """Find garbage and, unless `dry_run`, remove it; returns what was there.

    `otherwise_s` is what time it is (UTC seconds) if the store does not tell. A `dry_run` writes
    nothing but a probe of that, which it removes.
    """
    now_s = yield from endings.store_time(otherwise_s)
    found: list[Found] = []
    jobs = yield from list_jobs()
    for listed in jobs:
        try:
            found += yield from _collect_job(listed, now_s, dry_run=dry_run)
        except RecordError as error:
            report(error)
    known = {listed.id: listed for listed in jobs}
    found += yield from _collect_queue(known, settings, now_s, dry_run=dry_run)
    found += yield from _collect_old(
        "heartbeat of a dead agent",
        layout.AGENTS,
        now_s - IDLE_LEASES * settings.lease_s,
        dry_run=dry_run,
    )
    found += yield from _collect_old("probe", PROBES, now_s - _PROBE_S, dry_run=dry_run)
    return [one for one in found if one.swept]


# -- jobs ----------------------------------------------------------------------------------------


def _collect_job(listed: Listed, now_s: float, *, dry_run: bool) -> Procedure[list[Found]]:
    of = f"job {listed.id.hex()}"
    if listed.ending is None and not (yield from is_past(listed, now_s)):
        return [Found("result of no use", of, (yield from _sweep_objects(listed, dry_run=dry_run)))]
    if listed.ending is not None and now_s > listed.ending.at_s + (listed.days + 1) * DAY_S:
        what = "mark of a job that has ended long ago"
        return [Found(what, of, (yield from endings.forget(listed, dry_run=dry_run)))]
    ending = listed.ending or Ending(now_s, over_after(listed.days), listed.name)
    if dry_run:
        swept = yield from endings.sweep(listed, ending, dry_run=True)
    else:
        ending, swept = yield from endings.end(listed, ending)
        # Who was writing when the mark came may have written behind the sweep.
        swept += yield from endings.sweep(listed, ending)
    what = "job that was deleted" if ending.reason == endings.DELETED else "job that has ended"
    return [Found(what, of, swept)]


def is_past(listed: Listed, now_s: float) -> Procedure[bool]:
    """Whether a job's time is up: its retention after its start, both by the store's clock.

    A job without a record of its own is one whose removal was cut short, if it is so old by what
    its id says; where that is wrong, its keys are younger.
    """
    began_s = listed.started_s
    if began_s is None:
        line: Line | None = yield Head(layout.meta(listed.root))
        began_s = None if line is None else line.modified_s
        if line is None:
            newest = yield from list_all(layout.job_folder(listed.days, listed.id))
            began_s = max((one.modified_s or 0 for one in newest), default=0) or None
    return began_s is not None and now_s - began_s > listed.days * DAY_S


def _sweep_objects(listed: Listed, *, dry_run: bool) -> Procedure[Swept]:
    """Remove large results of attempts that lost.

    Only of batches that are not in the queue, and so have a complete journal: what an attempt
    says afterwards is void, so what it stored will never be named.
    """
    by_batch: dict[bytes, list[Line]] = {}
    for line in (yield from list_all(layout.objects(listed.root))):
        batch = layout.maker_of(listed.root, line.key)
        if batch is not None:
            by_batch.setdefault(batch, []).append(line)
    if not by_batch:
        return Swept()
    # Listed after the objects: a batch that is not here now was over when they were seen.
    active = {name.batch for name in (yield from queued(listed.id, carried=True))}
    useless: list[Line] = []
    for batch, lines in by_batch.items():
        if batch in active:
            continue
        try:
            named = yield from _named_objects(batch)
        except RecordError as error:
            report(error)
            continue
        if named is not None:
            useless += [line for line in lines if line.key not in named]
    if not dry_run:
        yield from endings.remove([line.key for line in useless])
    return Swept(len(useless), sum(line.size_bytes for line in useless))


def _named_objects(batch: bytes) -> Procedure[set[str] | None]:
    """The objects that the standing words of a journal name; None if there is no journal."""
    journal = Journal(batch)
    yield from journals.catch_up(journal)
    if not journal.next:
        return None
    values = (value for word in journal.decided.values() for value in word.values)
    return {key for value in values if (key := codec.stored_key(value)) is not None}


# -- the queue -----------------------------------------------------------------------------------


def _collect_queue(
    jobs: dict[bytes, Listed], settings: Cluster, now_s: float, *, dry_run: bool
) -> Procedure[list[Found]]:
    """Remove claims whose batch is over, and batches of jobs of which nothing else is left."""
    by_stem: dict[str, list[tuple[int, Line]]] = {}
    for line in (yield from list_all(layout.QUEUE)):
        parsed = layout.parse_queue(line.key)
        if parsed is not None:
            by_stem.setdefault(parsed[0], []).append((parsed[1], line))
    found: list[Found] = []
    for stem, lines in by_stem.items():
        name = layout.parse_stem(stem)
        if name is None:
            continue
        newest_s = max(line.modified_s or now_s for _, line in lines)
        age_s = now_s - newest_s
        listed = jobs.get(ids.job_of(name.batch))
        gone = listed is None and age_s > _STRAY_S
        numbers = [number for number, _ in lines]
        if not gone:
            if 0 in numbers or age_s < _CLAIM_LEASES * settings.lease_s:
                continue
            # Only where the journal says that the batch is over: see `claims.sweep`.
            journal = Journal(name.batch, name.size)
            try:
                yield from journals.catch_up(journal)
            except RecordError as error:
                report(error)
                continue
            gone = journal.complete or (settings.ephemeral and not journal.next)
        if gone:
            if not dry_run:
                yield Delete(tuple(line.key for _, line in lines))
            what = "batch of no job" if 0 in numbers else "claim without its batch"
            swept = Swept(len(lines), sum(line.size_bytes for _, line in lines))
            found.append(Found(what, f"batch {name.batch.hex()}", swept))
    return found


# -- other leftovers -----------------------------------------------------------------------------


def _collect_old(
    what: str, folder: str, before_s: float, *, dry_run: bool
) -> Procedure[list[Found]]:
    """Remove what was last written before a moment."""
    lines = [
        line
        for line in (yield from list_all(folder))
        if line.modified_s is not None and line.modified_s < before_s
    ]
    if not dry_run:
        yield from endings.remove([line.key for line in lines])
    return [Found(what, line.key.removeprefix(folder), Swept(1, line.size_bytes)) for line in lines]
