"""The journals that a driver follows: from a ref to the word that decides it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from datetime import datetime
from typing import Any

from cloudray import ids
from cloudray.context import Anchor, Anchors
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.looking import Open
from cloudray.exceptions import ObjectLostError
from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.jobs import explain_loss
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Entry, Verb, Word
from cloudray.protocol.results import Results
from cloudray.protocol.sharing import at
from cloudray.store import Op, Store, drive, layout
from cloudray.store.envelope import HEADER_BYTES, RecordError
from cloudray.store.layout import QueueName
from cloudray.store.parts import read_in_parts
from cloudray.values import codec
from cloudray.values.outcomes import Outcome

#: How many journals are looked at in one go.
_LOOK_BATCHES = 64
#: After this many looks in vain, ask whether what is waited for still exists.
_LOOKS_BEFORE_DOUBT = 40
#: So many of the batches that ended last are known to have: the queue may still show some.
_FINISHED = 10_000
_PUT_MARK = ids.PUT_INDEX.to_bytes(2, "big")


class Following:
    """Knows which journals somebody waits for, and forgets those that no ref leads to.

    Not thread-safe but for `find`: its client holds a lock.
    """

    def __init__(
        self, store: Store, job: bytes, book: DurationBook, lifetimes: Lifetimes | None = None
    ) -> None:
        self._store = store
        self._lifetimes = lifetimes
        self._job = job
        self._book = book
        self.results = Results()
        #: journals that are not complete, in the order in which they are looked at
        self._open: dict[bytes, Journal] = {}
        self._anchors = Anchors()
        self._lost: dict[bytes, Word] = {}
        #: batches of other jobs that have not been looked at yet
        self._strange: set[bytes] = set()
        self._looks = 0
        #: something is waited for that has not been looked at yet
        self.restless = False
        #: the last batches that are known to be complete, where dropping a ref deletes nothing
        self.finished: dict[bytes, None] = {}
        #: under which names our batches are queued
        self.names: dict[bytes, QueueName] = {}
        #: values of ours on their way into a store that is far away, and whether anybody has asked
        self.arriving: dict[bytes, bool] = {}
        #: by batch and index, when (monotonic) it was first seen that a task runs
        self.started_s: dict[bytes, dict[int, float]] = {}

    # -- which journals ------------------------------------------------------------------------

    def anchor(self, batch: bytes) -> Anchor:
        """What refs to a batch's values keep alive; when it goes, the batch is forgotten."""
        anchor = self._anchors.find(batch)
        if anchor is None:
            anchor = self._anchors.make(batch)
            if self._lifetimes is not None:
                self._lifetimes.hold(batch)
        return anchor

    def existing_anchor(self, batch: bytes) -> Anchor | None:
        """What refs to a batch's values keep alive, if there are any."""
        return self._anchors.find(batch)

    def submitted(self, name: QueueName, batch: Batch, *, adding: bool = False) -> None:
        """A batch of ours is being stored: follow it, if any ref to it is left, or about to be.

        `adding`: a call is being added to it, and there will be a ref in a moment.
        """
        if self._lifetimes is not None:
            self._lifetimes.own(name.batch)
        if adding or name.batch in self._anchors:
            self.names[name.batch] = name
            journal = Journal(name.batch, name.size, once=batch.once)
            self.results.journals[name.batch] = self._open[name.batch] = journal

    def not_submitted(self, batch: bytes) -> None:
        """There was no room for a batch: unless refs to it are left, nobody may ever store it."""
        if batch not in self._anchors:
            self._open.pop(batch, None)
            self.names.pop(batch, None)
            self.results.journals.pop(batch, None)
            if self._lifetimes is not None:
                self._lifetimes.disown(batch)

    def follow(self, identifier: bytes) -> None:
        """Somebody waits for this value: its journal is looked at from now on."""
        batch, index = self.results.waiting_on(identifier)
        journal = self.results.journal(batch)
        journal.expect(index)
        if batch not in self._open:
            self._open[batch] = journal
            self.restless = True
            if ids.job_of(batch) != self._job:
                self._strange.add(batch)

    def lose(self, batch: bytes, reason: str, date: datetime | None = None) -> None:
        """The values of a batch are gone, as whoever asks for them is told."""
        payload = codec.dumps(ObjectLostError(batch.hex(), date=date, reason=reason)).to_bytes()
        self._lost[batch] = Word(0, Verb.FAILED, (payload,))
        self._open.pop(batch, None)

    def drop_unused(self) -> None:
        """Forget batches to whose values no ref is left."""
        for batch in self._anchors.take_gone():
            self._drop(batch)

    @property
    def has_unused(self) -> bool:
        """Whether there is anything to forget."""
        return self._anchors.has_gone

    def _drop(self, batch: bytes) -> None:
        if batch in self._anchors:
            return
        if self._lifetimes is not None:
            self._lifetimes.let_go(batch)
        self._open.pop(batch, None)
        self.names.pop(batch, None)
        self.started_s.pop(batch, None)
        journal = self.results.journals.pop(batch, None)
        if journal is not None:
            for word in journal.decided.values():
                if word.verb is Verb.MOVED:
                    self._drop(at(word.values[0])[0])

    # -- what they say -------------------------------------------------------------------------

    def find(self, identifier: bytes) -> Word | None:
        """The final word on a value, if it is known here."""
        if identifier[25:27] == _PUT_MARK:
            if self.arriving and ids.unit_of(identifier) in self.arriving:
                return None
            if self._lost and (lost := self._lost.get(ids.unit_of(identifier))) is not None:
                return lost
            return Word(0, Verb.DONE, (codec.stored(layout.put_object(identifier), 0),))
        word = self.results.find(identifier)
        if word is None and self._lost:
            return self._lost.get(ids.unit_of(identifier))
        return word

    def published(self, batch: bytes, following: int, entry: Entry | None) -> bool:
        """A journal is said to have entries below `following`: take them in; whether it had.

        `entry` is the last of them. Whoever sends it has seen it stand there, and what stands at
        a number stands for good, so there is nothing to read when it is the only one missing.
        """
        journal = self.results.journals.get(batch)
        if journal is None or journal.next >= following:
            return False
        try:
            if entry is not None and journal.next == following - 1:
                journal.apply(entry)
            else:
                drive(self._store, journals.catch_up(journal, following))
        except RecordError as error:
            self._unreadable(batch, error)
        self._grown(journal)
        return True

    def cancel(
        self, identifier: bytes, *, force: bool, recursive: bool = True
    ) -> Generator[Op, Any, bytes]:
        """Say CANCELLED of a task; returns the batch in whose journal that was said.

        The client holds its lock at each step, and not while the store is asked in between.
        """
        yield from self.results.cancel(identifier, force=force, recursive=recursive)
        batch, _ = self.results.waiting_on(identifier)
        journal = self.results.journal(batch)
        self._grown(journal)
        if journal.complete and not self._store.inline and batch in self.names:
            # Whoever holds it does the same. But agents of other machines are not told, and where
            # it fits none of them nobody would ever find out: it would stay in the queue.
            yield from claims.retire(self.names[batch])
        return batch

    @property
    def looks_for_any(self) -> bool:
        """Whether there are journals to look at."""
        return bool(self._open)

    def asks_first(self, unit: bytes) -> bool:
        """Somebody asks for a value: whether it is on its way, and he is the first to do so."""
        if self.arriving.get(unit, True):
            return False
        self.arriving[unit] = True
        return True

    def open_now(self) -> list[Open]:
        """What is waited for, for whoever looks at it elsewhere, and says so by `looked`."""
        self.restless = False
        return [Open(one.batch, one.next, one.missing) for one in self._open.values()]

    def looked(self, *, news: bool) -> bool:
        """What was waited for has been looked at; whether there was news, or is now."""
        self._looks += 1
        strange, self._strange = self._strange, set()
        if strange and self._doubt(strange):
            news = True
        return self._doubt_if_due(news=news)

    def look_around(self) -> bool:
        """Hints may be lost: look at what is waited for, oldest first; whether there was news."""
        self.restless = False
        self._looks += 1
        # A ref of another job may be older than its job's end: that shows at the first look.
        strange, self._strange = self._strange, set()
        news = self._doubt(strange) if strange else False
        for batch in list(self._open)[:_LOOK_BATCHES]:
            journal = self._open.pop(batch)
            self._open[batch] = journal
            try:
                if drive(self._store, journals.catch_up(journal)):
                    news = True
                    self._grown(journal)
            except RecordError as error:
                self._unreadable(batch, error)
                news = True
        return self._doubt_if_due(news=news)

    def _doubt_if_due(self, *, news: bool) -> bool:
        if news:
            self._looks = 0
        elif self._looks % _LOOKS_BEFORE_DOUBT == 0:
            # Also our own job may have been deleted, at a named address.
            news = self._doubt(
                batch
                for batch in self._open
                if self._lifetimes is None or ids.job_of(batch) != self._job
            )
            if not news and self._lifetimes is None:
                news = self._doubt_queued()
        return news

    def _doubt_queued(self) -> bool:
        """Give up the batch that has waited longest, if it was tampered with; whether it was."""
        batch = next((batch for batch in self._open if batch in self.names), None)
        if batch is None:
            return False
        try:
            why = drive(self._store, claims.why_lost(self.names[batch], self._open[batch]))
        except RecordError as error:
            why = str(error)
        if why:
            self._open.pop(batch, None)
            self.lose(batch, why)
        elif batch in self._open:
            self._open[batch] = self._open.pop(batch)
        return bool(why)

    def _unreadable(self, batch: bytes, error: RecordError) -> None:
        self._open.pop(batch, None)
        self.lose(batch, f"its journal cannot be read: {error}")

    def _grown(self, journal: Journal) -> None:
        for duration in journal.measured:
            self._book.note(duration)
        journal.measured.clear()
        if journal.started:
            self._note_started(journal)
        # At once: the rest of a batch may take long, and where its tasks went may be over soon.
        # Nothing that was moved says how many tasks it came among, so they are counted here.
        for word in journal.moved:
            batch, index = at(word.values[0])
            target = self.results.journal(batch)
            target.expect(index)
            if batch not in self._open and not target.complete:
                self._open[batch] = target
                self.restless = True
        journal.moved.clear()
        if journal.complete:
            self._open.pop(journal.batch, None)
            if self._lifetimes is not None:
                self._lifetimes.read(journal)
            else:
                self.finished[journal.batch] = None
                if len(self.finished) > _FINISHED:
                    del self.finished[next(iter(self.finished))]

    def _note_started(self, journal: Journal) -> None:
        seen = self.started_s.setdefault(journal.batch, {})
        if len(seen) < len(journal.started):
            now_s = time.monotonic()
            for index in journal.started:
                seen.setdefault(index, now_s)

    def _is_gone(self, batch: bytes) -> bool:
        """Whether a batch's job never was, or has ended, or is about to be removed."""
        if self._store.head(layout.meta(batch)) is None:
            return True
        return self._store.head(layout.ending(batch)) is not None

    def _doubt(self, batches: Iterable[bytes]) -> bool:
        """Fail what waits for values of jobs that have ended, or never were; whether any did."""
        doubtful = [batch for batch in batches if batch in self._open]
        jobs = {ids.job_of(batch): batch for batch in doubtful}
        missing = {job for job, batch in jobs.items() if self._is_gone(batch)}
        gone = [batch for batch in doubtful if ids.job_of(batch) in missing]
        why: dict[bytes, ObjectLostError] = {}
        for batch in gone:
            job = ids.job_of(batch)
            if job not in why:
                why[job] = drive(self._store, explain_loss(batch, "it is not in the store"))
            self.lose(batch, why[job].reason, why[job].date)
            self._open.pop(batch, None)
        return bool(gone)


def first_found(identifiers: list[bytes], count: int, find: Callable[[bytes], Any]) -> list[int]:
    """The positions of the first `count` ids that `find` finds."""
    found: list[int] = []
    for position, identifier in enumerate(identifiers):
        if find(identifier) is not None:
            found.append(position)
            if len(found) == count:
                break
    return found


def outcome_of(store: Store, identifier: bytes, word: Word) -> Outcome:
    """What a final word means for one ref; large values are mapped or read from the store.

    Raises `ObjectLostError` when the value is not there, or not what the task had made.
    """
    verb, payload = int(word.verb), b""
    if word.verb is Verb.DONE:
        number = ids.return_of(identifier)
        if number >= len(word.values):
            reason = f"its task returned {len(word.values)} values"
            raise ObjectLostError(identifier.hex(), reason=reason)
        payload = word.values[number]
    elif word.verb is Verb.FAILED:
        payload = word.values[0]
    key = codec.stored_key(payload)
    if key is not None:
        try:
            path = store.path(key)
            body = read_in_parts(store, key) if path is None else None
        except (RecordError, ValueError) as error:
            # Also where what a task says its value is leads out of the store.
            reason = f"what is stored is not its value: {error}"
            raise ObjectLostError(identifier.hex(), reason=reason) from None
        if path is not None:
            payload = codec.local(str(path))
        elif body is None:
            raise drive(store, explain_loss(identifier, "it is not in the store"))
        else:
            return Outcome(verb, memoryview(body)[HEADER_BYTES:], identifier)
    return Outcome(verb, payload, identifier)
