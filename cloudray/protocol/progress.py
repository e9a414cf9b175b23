"""How far the tasks are that a job's driver submitted, whether it still runs or not.

What is not over is in the queue, and what was said of it in the journals under its submitter.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.jobs import Listed, queued, read_all, trusted
from cloudray.protocol.journal import Journal
from cloudray.protocol.listing import list_all
from cloudray.protocol.records import Batch, Entry, Verb
from cloudray.protocol.results import Results
from cloudray.store import layout
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure


class Counts(msgspec.Struct, frozen=True):
    """How far the tasks are that a job's driver submitted."""

    #: they returned
    done: int = 0
    #: their errors stand
    failed: int = 0
    #: they never were, or were stopped
    cancelled: int = 0
    #: an agent said that it runs them
    running: int = 0
    #: they wait: for an agent, a slot or arguments, or have only just begun
    pending: int = 0
    #: batches in the queue that tasks of it submitted, not the driver
    nested: int = 0

    @property
    def total(self) -> int:
        """All of the driver's."""
        return self.over + self.running + self.pending

    @property
    def over(self) -> int:
        """Those that have ended, in whatever way."""
        return self.done + self.failed + self.cancelled


class Progress:
    """What is known of the tasks that a job's driver submitted; `refresh` reads what is new.

    Why no task is missed: a batch leaves the queue only when its journal is complete. So one that
    was submitted before a look is in the queue's listing, or all of its words are in the listing
    of the journals that comes after it.
    """

    def __init__(self, listed: Listed, submitter: bytes) -> None:
        self.listed = listed
        self.results = Results()
        self._prefix = ids.batch_prefix(listed.days, listed.id, submitter)
        self._submitter = submitter
        #: tasks in each batch of the driver, by its number; as many as were seen, where the queue
        #: does not say
        self._sizes: dict[int, int] = {}
        #: numbers of batches that have left the queue
        self._left: set[int] = set()
        #: batches of the job in the queue at the last look
        self.queue: dict[QueueName, int] = {}
        self._returns: dict[tuple[bytes, int], int] = {}

    def refresh(self) -> Procedure[None]:
        """Read what is new."""
        while True:
            self.queue = yield from queued(self.listed.id)
            ours = {
                ids.number_of(name.batch): name
                for name in self.queue
                if ids.submitter_of(name.batch) == self._submitter
            }
            for number, name in ours.items():
                self._sizes[number] = name.size
                self.results.journals.setdefault(name.batch, Journal(name.batch, name.size))
            gone = self._sizes.keys() - ours.keys()
            fresh = yield from self._read_journals()
            # One that was seen first by its journal may have come, and not be over yet: whether
            # it has left the queue shows only in a listing that begins now.
            unsure = fresh - ours.keys() - gone
            self._left |= gone
            if not unsure:
                break
        yield from self._follow()

    def _read_journals(self) -> Procedure[set[int]]:
        """Read the journals as far as a listing shows them; returns the batches in it."""
        known: dict[int, int] = {}
        # Of batches that are complete, nothing new is to be seen.
        for line in (yield from list_all(layout.journals(self._prefix + bytes(4)), self._after())):
            parsed = layout.parse_journal(line.key)
            if parsed is not None:
                number, position = parsed
                known[number] = max(position + 1, known.get(number, 0))
        wanted: list[tuple[Journal, int]] = []
        for number, length in known.items():
            journal = self.results.journal(ids.batch_id(self._prefix, number))
            wanted += [(journal, position) for position in range(journal.next, length)]
        keys = [journals.key(journal.batch, position) for journal, position in wanted]
        bodies = yield from read_all(keys)
        for (journal, position), key, body in zip(wanted, keys, bodies, strict=True):
            if body is not None and journal.next == position:
                journal.apply(trusted(Entry, body, key) or journals.VOID)
        for number in known:
            journal = self.results.journal(ids.batch_id(self._prefix, number))
            seen = max(journal.decided, default=-1) + 1
            self._sizes[number] = max(seen, self._sizes.get(number, 0))
        return set(known)

    def _after(self) -> str:
        """Behind which key of the journals there may be news."""
        number = 0
        while number in self._left and self._is_over(number):
            number += 1
        if not number:
            return ""
        return layout.journal(ids.batch_id(self._prefix, number - 1)) + "~"

    def _is_over(self, number: int) -> bool:
        journal = self.results.journals.get(ids.batch_id(self._prefix, number))
        return journal is not None and len(journal.decided) >= self._sizes[number]

    def _follow(self) -> Procedure[None]:
        """Read the journals of batches to which tasks were moved."""
        looked: set[bytes] = set()
        while True:
            moved: set[bytes] = set()
            for batch, index in self._tasks():
                identifier = ids.object_id(batch, index)
                if self.results.find(identifier) is None:
                    moved.add(self.results.waiting_on(identifier)[0])
            moved -= looked
            todo = [one for one in sorted(moved) if ids.submitter_of(one) != self._submitter]
            if not todo:
                return
            looked |= moved
            for batch in todo:
                yield from journals.catch_up(self.results.journal(batch))

    def _tasks(self) -> Iterator[tuple[bytes, int]]:
        for number, size in sorted(self._sizes.items()):
            batch = ids.batch_id(self._prefix, number)
            for index in range(size):
                yield batch, index

    # -- what that means ---------------------------------------------------------------------

    def counts(self) -> Counts:
        """How far the tasks are, as of the last look."""
        by_verb: dict[Verb, int] = {}
        running = pending = 0
        for batch, index in self._tasks():
            identifier = ids.object_id(batch, index)
            word = self.results.find(identifier)
            if word is not None:
                by_verb[word.verb] = by_verb.get(word.verb, 0) + 1
                continue
            place, there = self.results.waiting_on(identifier)
            journal = self.results.journals.get(place)
            runs = journal is not None and there in journal.started
            running += runs
            pending += not runs
        nested = sum(ids.submitter_of(name.batch) not in self._known() for name in self.queue)
        return Counts(
            by_verb.get(Verb.DONE, 0),
            by_verb.get(Verb.FAILED, 0),
            by_verb.get(Verb.CANCELLED, 0),
            running,
            pending,
            nested,
        )

    def _known(self) -> set[bytes]:
        """The driver, and the agents to whose batches its tasks were moved."""
        targets = {ids.submitter_of(batch) for batch in self.results.journals}
        return targets | {self._submitter}

    @property
    def is_over(self) -> bool:
        """Whether every task of the driver has its final word, as of the last look."""
        return all(
            self.results.find(ids.object_id(batch, index)) is not None
            for batch, index in self._tasks()
        )

    def refs(self) -> Procedure[list[bytes]]:
        """The ids of all values of the driver's tasks, in the order of its batches.

        How many values a task has says its batch in the queue, or its result. One that failed has
        one here, by which the error can be had; one that returned nothing has none.
        """
        yield from self._read_returns()
        found: list[bytes] = []
        for batch, index in self._tasks():
            found += [ids.object_id(batch, index, n) for n in range(self._returns_of(batch, index))]
        return found

    def _returns_of(self, batch: bytes, index: int) -> int:
        word = self.results.find(ids.object_id(batch, index))
        if word is not None and word.verb is Verb.DONE:
            return len(word.values)
        return self._returns.get((batch, index), 1)

    def _read_returns(self) -> Procedure[None]:
        unread = [
            name
            for name in self.queue
            if ids.submitter_of(name.batch) == self._submitter
            and (name.batch, 0) not in self._returns
        ]
        keys = [layout.claim_of(name.stem, 0) for name in unread]
        for key, body in zip(keys, (yield from read_all(keys)), strict=True):
            batch = trusted(Batch, body, key)
            if batch is None:
                continue
            for index, task in enumerate(batch.tasks):
                self._returns[batch.id, index] = batch.shapes[task.shape].num_returns
