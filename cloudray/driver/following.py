"""The journals that a driver follows: from a ref to the word that decides it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from cloudray import ids
from cloudray.context import Anchor
from cloudray.exceptions import ObjectLostError
from cloudray.protocol import journal as journals
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Entry, Verb, Word
from cloudray.protocol.results import Results
from cloudray.protocol.sharing import at
from cloudray.store import Store, drive, layout
from cloudray.store.layout import QueueName
from cloudray.values import codec

#: How many journals are looked at in one go.
_LOOK_BATCHES = 64
#: After this many looks in vain, ask whether what is waited for still exists.
_LOOKS_BEFORE_DOUBT = 40
_PUT_MARK = ids.PUT_INDEX.to_bytes(2, "big")


class Following:
    """Knows which journals somebody waits for, and forgets those that no ref leads to.

    Not thread-safe but for `find`: its client holds a lock.
    """

    def __init__(self, store: Store, job: bytes, book: DurationBook) -> None:
        self._store = store
        self._job = job
        self._book = book
        self.results = Results()
        #: journals that are not complete, in the order in which they are looked at
        self._open: dict[bytes, Journal] = {}
        self._anchors: WeakValueDictionary[bytes, Anchor] = WeakValueDictionary()
        self._dropped: deque[bytes] = deque()
        self._lost: dict[bytes, Word] = {}
        #: batches of other jobs that have not been looked at yet
        self._strange: set[bytes] = set()
        #: a call is being taken in, whose batch may be stored before there is a ref to it
        self.submitting = False
        self._looks = 0
        #: something is waited for that has not been looked at yet
        self.restless = False

    # -- which journals ------------------------------------------------------------------------

    def anchor(self, batch: bytes) -> Anchor:
        """What refs to a batch's values keep alive; when it goes, the batch is forgotten."""
        anchor = self._anchors.get(batch)
        if anchor is None:
            anchor = self._anchors[batch] = Anchor(batch, self._dropped.append)
        return anchor

    def submitted(self, name: QueueName, batch: Batch) -> None:
        """A batch of ours is being stored: follow it, if any ref to it is left, or about to be."""
        if self.submitting or name.batch in self._anchors:
            journal = Journal(name.batch, name.size, once=batch.once)
            self.results.journals[name.batch] = self._open[name.batch] = journal

    def follow(self, identifier: bytes) -> None:
        """Somebody waits for this value: its journal is looked at from now on."""
        batch, _ = self.results.waiting_on(identifier)
        if batch not in self._open:
            self._open[batch] = self.results.journal(batch)
            self.restless = True
            if ids.job_of(batch) != self._job:
                self._strange.add(batch)

    def drop_unused(self) -> None:
        """Forget batches to whose values no ref is left."""
        while self._dropped:
            self._drop(self._dropped.popleft())

    @property
    def has_unused(self) -> bool:
        """Whether there is anything to forget."""
        return bool(self._dropped)

    def _drop(self, batch: bytes) -> None:
        if batch in self._anchors:
            return
        self._open.pop(batch, None)
        journal = self.results.journals.pop(batch, None)
        if journal is not None:
            for word in journal.decided.values():
                if word.verb is Verb.MOVED:
                    self._drop(at(word.values[0])[0])

    # -- what they say -------------------------------------------------------------------------

    def find(self, identifier: bytes) -> Word | None:
        """The final word on a value, if it is known here."""
        if identifier[25:27] == _PUT_MARK:
            return Word(0, Verb.DONE, (codec.stored(layout.put_object(identifier), 0),))
        word = self.results.find(identifier)
        if word is None and self._lost:
            return self._lost.get(identifier[: ids.BATCH_ID_BYTES])
        return word

    def published(self, batch: bytes, following: int, entry: Entry | None) -> bool:
        """A journal is said to have entries below `following`: take them in; whether it had.

        `entry` is the last of them. Whoever sends it has seen it stand there, and what stands at
        a number stands for good, so there is nothing to read when it is the only one missing.
        """
        journal = self.results.journals.get(batch)
        if journal is None or journal.next >= following:
            return False
        if entry is not None and journal.next == following - 1:
            journal.apply(entry)
        else:
            drive(self._store, journals.catch_up(journal, following))
        self._grown(journal)
        return True

    def cancel(self, identifier: bytes, *, force: bool) -> bytes:
        """Say CANCELLED of a task; returns the batch in whose journal that was said."""
        drive(self._store, self.results.cancel(identifier, force=force))
        batch, _ = self.results.waiting_on(identifier)
        self._grown(self.results.journal(batch))
        return batch

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
            if drive(self._store, journals.catch_up(journal)):
                news = True
                self._grown(journal)
        if news:
            self._looks = 0
        elif self._looks % _LOOKS_BEFORE_DOUBT == 0:
            others = [batch for batch in self._open if ids.job_of(batch) != self._job]
            news = self._doubt(others)
        return news

    def _grown(self, journal: Journal) -> None:
        for duration in journal.measured:
            self._book.note(duration)
        journal.measured.clear()
        if not journal.complete:
            return
        self._open.pop(journal.batch, None)
        for word in journal.decided.values():
            if word.verb is Verb.MOVED:
                target = self.results.journal(at(word.values[0])[0])
                if target.batch not in self._open and not target.complete:
                    self._open[target.batch] = target
                    self.restless = True

    def _doubt(self, batches: Iterable[bytes]) -> bool:
        """Fail what waits for values of jobs that were deleted; whether there were any.

        A job's record goes first, so where it is there the rest is too.
        """
        doubtful = [batch for batch in batches if batch in self._open]
        gone = [batch for batch in doubtful if self._store.head(layout.meta(batch)) is None]
        for batch in gone:
            reason = "its job was deleted, or its retention is over"
            payload = codec.dumps(ObjectLostError(batch.hex(), reason=reason)).to_bytes()
            self._lost[batch] = Word(0, Verb.FAILED, (payload,))
            del self._open[batch]
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
