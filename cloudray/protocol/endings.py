"""The end of a job: by its user, or because its time is up. Nothing of it is left but dated marks.

The mark comes first, then what runs is stopped, then the bytes go. A job's journals go last and
never quite: entry 0 of each is overwritten by one that says when and why, and stays. Why that is
safe, though the journal's keys are otherwise written once: every reader begins at entry 0, and so
does whoever wants to write and knows nothing. Somebody who slept meanwhile, and has read further,
may still append at a number that is free again; nobody will ever read that, and the next sweep
removes it. Somebody who slept before entry 0 loses it, and learns there that he is too late. So
from the mark on, whoever begins to look finds the same: it is gone, since then.

Marks stay for the job's retention after its end. By then its agents have refused to write for it
for at least so long, whatever they hold: it ended by the store's own clock.
"""

from __future__ import annotations

import msgspec

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.jobs import Listed, cancel_all, lost, queued, read_all
from cloudray.protocol.listing import list_all
from cloudray.protocol.records import EVERY_TASK, Ending, Entry, Verb, Word, seal, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Delete, Head, Put
from cloudray.store.base import Entry as Line
from cloudray.store.envelope import Kind, RecordError, new_nonce
from cloudray.store.envelope import seal as seal_payload
from cloudray.store.layout import QueueName
from cloudray.store.probe import FOLDER as PROBES
from cloudray.store.procedures import Procedure
from cloudray.values.outcomes import error_payload

DAY_S = 86_400.0
DELETED = "its job was deleted"
#: Keys of one deletion.
_TOGETHER = 1000
#: Entries that are overwritten at a time.
_SOME = 64


class Swept(msgspec.Struct, frozen=True):
    """What a sweep removed, or would."""

    objects: int = 0
    size_bytes: int = 0
    #: journals that got a mark instead of their entries
    journals: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.objects + other.objects,
            self.size_bytes + other.size_bytes,
            self.journals + other.journals,
        )

    def __bool__(self) -> bool:
        return bool(self.objects or self.journals)


def over_after(days: int) -> str:
    """Why the values of a job are lost whose time is up."""
    return f"its job's retention of {days} day{'' if days == 1 else 's'} was over"


def store_time(otherwise_s: float) -> Procedure[float]:
    """What time it is by the store's clock (UTC seconds), shown by something that is written now.

    `otherwise_s` where the store does not tell.
    """
    key = f"{PROBES}{new_nonce().hex()}.time"
    yield Put(key, seal_payload(Kind.PROBE, b""))
    line: Line | None = yield Head(key)
    yield Delete((key,))
    modified_s = None if line is None else line.modified_s
    return otherwise_s if modified_s is None else float(modified_s)


def end(listed: Listed, ending: Ending) -> Procedure[tuple[Ending, Swept]]:
    """End a job: mark it, stop what runs, remove all but the marks.

    May be run again, and by several at once. Returns the ending that stands, which another may
    have said first, and what was removed.
    """
    ending = yield from mark(listed, ending)
    yield from cancel_all(listed.id, force=True, retire=_let_be)
    return ending, (yield from sweep(listed, ending))


def mark(listed: Listed, ending: Ending) -> Procedure[Ending]:
    """Say that a job has ended, unless that was said; returns what stands."""
    if listed.ending is not None:
        return listed.ending
    key = layout.ending(listed.root)
    winner: bytes | None = yield Create(key, seal(ending))
    return ending if winner is None else unseal(Ending, winner, key)


def _let_be(_: QueueName) -> Procedure[None]:
    """The sweep takes a batch out of the queue, once its journal says why."""
    yield from ()


def sweep(listed: Listed, ending: Ending, *, dry_run: bool = False) -> Procedure[Swept]:
    """Remove everything of a job that has ended but its marks.

    Again and again: who slept may have written once more.
    """
    swept = yield from _sweep_queue(listed, ending, dry_run=dry_run)
    swept += yield from _sweep_journals(listed, ending, dry_run=dry_run)
    return swept + (yield from _sweep_rest(listed, dry_run=dry_run))


def _sweep_queue(listed: Listed, ending: Ending, *, dry_run: bool) -> Procedure[Swept]:
    names = yield from queued(listed.id)
    swept = Swept()
    for name, last in names.items():
        if ids.days_of(name.batch) != listed.days:
            continue
        swept += Swept(objects=1 + last)
        if dry_run:
            continue
        # Before the batch goes: whoever claims it now finds in its journal that it is over, and
        # so does whoever waits for its values.
        yield Put(journals.key(name.batch, 0), _mark_of(name.batch, ending))
        yield Delete(tuple(layout.claim_of(name.stem, number) for number in range(last + 1)))
    return swept


def _sweep_journals(listed: Listed, ending: Ending, *, dry_run: bool) -> Procedure[Swept]:
    lines = yield from list_all(layout.all_journals(listed.root))
    by_batch: dict[bytes, list[Line]] = {}
    for line in lines:
        batch = layout.batch_of(listed.root, line.key)
        if batch is not None:
            by_batch.setdefault(batch, []).append(line)
    unmarked = yield from _unmarked(by_batch, ending)
    later = [
        line
        for batch, entries in by_batch.items()
        for line in entries
        if line.key != journals.key(batch, 0)
    ]
    if not dry_run:
        for batch in unmarked:
            yield Put(journals.key(batch, 0), _mark_of(batch, ending))
        yield from remove([line.key for line in later])
    return Swept(len(later), sum(line.size_bytes for line in later), len(unmarked))


def _unmarked(by_batch: dict[bytes, list[Line]], ending: Ending) -> Procedure[list[bytes]]:
    """The batches whose entry 0 is not a mark yet."""
    sizes = {batch: {line.key: line.size_bytes for line in by_batch[batch]} for batch in by_batch}
    # Only what is as long as a mark can be one, and is read to see.
    alike = [
        batch
        for batch in by_batch
        if sizes[batch].get(journals.key(batch, 0)) == len(_mark_of(batch, ending))
    ]
    keys = [journals.key(batch, 0) for batch in alike]
    marked: set[bytes] = set()
    for batch, key, body in zip(alike, keys, (yield from read_all(keys)), strict=True):
        if body is not None and is_mark(body, key):
            marked.add(batch)
    return [batch for batch in by_batch if batch not in marked]


def _sweep_rest(listed: Listed, *, dry_run: bool) -> Procedure[Swept]:
    folder = layout.job_folder(listed.days, listed.id)
    results = layout.all_journals(listed.root)
    kept = layout.ending(listed.root)
    lines = [
        line
        for line in (yield from list_all(folder))
        if not line.key.startswith(results) and line.key != kept
    ]
    # The job's own record last: while it is there, a sweep that was cut short is found again.
    lines.sort(key=lambda line: line.key == layout.meta(listed.root))
    if not dry_run:
        yield from remove([line.key for line in lines])
    return Swept(len(lines), sum(line.size_bytes for line in lines))


def forget(listed: Listed, *, dry_run: bool = False) -> Procedure[Swept]:
    """Remove the marks too, when nobody can be asleep any more who would write for the job."""
    lines = yield from list_all(layout.job_folder(listed.days, listed.id))
    # The mark of the job goes after those of its journals.
    lines.sort(key=lambda line: line.key == layout.ending(listed.root))
    if not dry_run:
        yield from remove([line.key for line in lines])
    return Swept(len(lines), sum(line.size_bytes for line in lines))


def remove(keys: list[str]) -> Procedure[None]:
    """Delete any number of objects, in this order."""
    for first in range(0, len(keys), _TOGETHER):
        yield Delete(tuple(keys[first : first + _TOGETHER]))


def _mark_of(batch: bytes, ending: Ending) -> bytes:
    """What stands for good at entry 0 of a journal whose job has ended."""
    payload = error_payload(lost(batch, ending))
    return seal(Entry(0, (Word(EVERY_TASK, Verb.FAILED, (payload,)),)))


def is_mark(body: bytes, key: str) -> bool:
    """Whether a journal's entry is such a mark."""
    try:
        entry = unseal(Entry, body, key)
    except RecordError:
        return False
    return any(word.index == EVERY_TASK for word in entry.words)
