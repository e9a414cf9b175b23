"""A batch's journal: the only place where anything about its tasks is decided.

Entries are numbered, and each is created by put-if-absent at the next free number. The fold of
the entries, in order, is the truth; every reader computes the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

from cloudray.protocol.records import EVERY_TASK, Duration, Entry, Verb, Word, seal, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Get, GetMany, Op
from cloudray.store.envelope import RecordError
from cloudray.store.signing import TamperedError

#: What an entry says that is none of ours: nothing. Its number is taken, and the next one counts.
#: Who can write to the store without the cluster's key so decides nothing, and stops nobody; all
#: who read, and all who append, step over it alike.
VOID = Entry(0, ())
#: A journal with more of them is not read on: somebody writes faster than we step over it.
MAX_VOID = 100
#: How many entries a reader that is far behind asks for at once.
READ_AHEAD = 8
#: What may not be said of a task with `max_retries=0` once its STARTED stands.
_ONLY_BEFORE_PERMISSION = (Verb.STARTED, Verb.MOVED)


class Journal:
    """The fold of a batch's journal as far as it has been read.

    Why one decision per task: entries are totally ordered by their numbers, a number is won by
    one writer for good, and `_counts` looks only at what stands at lower numbers. So all readers
    agree on each task's first deciding word, and no later word can change it.
    """

    __slots__ = (
        "_missing",
        "_once",
        "_size",
        "batch",
        "claims",
        "decided",
        "latest",
        "measured",
        "moved",
        "next",
        "started",
        "void",
    )

    def __init__(self, batch: bytes, size: int | None = None, *, once: bool = False) -> None:
        self.batch = batch
        #: the lowest number not read yet
        self.next = 0
        #: per decided task, the word that decides here (MOVED included)
        self.decided: dict[int, Word] = {}
        #: per decided task, the claim of the entry that decided
        self.claims: dict[int, int] = {}
        #: per task, the (claim, attempt) pairs that said STARTED
        self.started: dict[int, list[tuple[int, int]]] = {}
        #: the last entry that was folded in
        self.latest: Entry | None = None
        #: durations that entries reported, for whoever sizes batches to take
        self.measured: list[Duration] = []
        #: MOVED words that decided, for whoever follows them to take
        self.moved: list[Word] = []
        #: how many entries were none of ours
        self.void = 0
        self._size = size
        #: where the size is not known, the expected tasks that are not decided; None without any
        self._missing: set[int] | None = None
        self._once = once

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do here: every task is final, or another batch's.

        Where the number of tasks is not known, those count that somebody expects.
        """
        if self._size is None:
            return self._missing is not None and not self._missing
        return len(self.decided) == self._size

    @property
    def missing(self) -> int:
        """How many tasks are not decided: of all, or of the expected ones if not all are known."""
        if self._size is None:
            return len(self._missing or ())
        return self._size - len(self.decided)

    def expect(self, index: int) -> None:
        """Count a task among those that must be decided, where their number is not known."""
        if self._size is None:
            if self._missing is None:
                self._missing = set()
            if index not in self.decided:
                self._missing.add(index)

    @property
    def is_over(self) -> bool:
        """Whether every task is final: complete, and none of them went to another batch."""
        return self.complete and not any(word.verb is Verb.MOVED for word in self.decided.values())

    def set_once(self) -> None:
        """The batch turned out to hold a single task with `max_retries=0`."""
        self._once = True
        if self.void:
            self._note_void()

    def sift(self, words: Iterable[Word]) -> tuple[Word, ...]:
        """The words that would still count if they were appended now."""
        decided: set[int] = set()
        permitted: set[int] = set()
        kept = []
        for word in words:
            if word.index in decided or not self._counts(word):
                continue
            if word.index in permitted and word.verb in _ONLY_BEFORE_PERMISSION:
                continue
            kept.append(word)
            if word.verb is not Verb.STARTED:
                decided.add(word.index)
            elif self._once:
                permitted.add(word.index)
        return tuple(kept)

    def apply(self, entry: Entry) -> list[int]:
        """Fold the next entry in; returns the indexes that it decided.

        Moves on only at the end: a Ctrl-C midway leaves an entry that is folded in again.
        """
        fresh = []
        if entry is VOID:
            self.void += 1
            self._note_void()
        for word in entry.words:
            if word.index == EVERY_TASK:
                fresh += self._end(word, entry.claim)
                continue
            if not self._counts(word):
                continue
            if word.verb is Verb.STARTED:
                self.started.setdefault(word.index, []).append((entry.claim, word.attempt))
                continue
            self.decided[word.index] = word
            self.claims[word.index] = entry.claim
            fresh.append(word.index)
            if word.verb is Verb.MOVED:
                self.moved.append(word)
            if self._missing:
                self._missing.discard(word.index)
        self.measured += entry.durations
        self.latest = entry
        self.next += 1
        return fresh

    def _end(self, word: Word, claim: int) -> list[int]:
        """The job has ended: its word holds for every task without another, known here or not."""
        known = range(self._size or 0) if self._missing is None else sorted(self._missing)
        fresh = [index for index in known if index not in self.decided]
        self.decided = _Unanimous(word, self.decided)
        for index in fresh:
            self.decided[index] = word
            self.claims[index] = claim
        if self._missing:
            self._missing.clear()
        return fresh

    def _note_void(self) -> None:
        """What stood there before may have been the permission of a task that runs only once."""
        if self._once and not self.started.get(0):
            self.started[0] = [(0, 0)]
        if self.void > MAX_VOID:
            raise RecordError(
                f"the journal {layout.journal(self.batch)} has more than {MAX_VOID} entries that "
                "were not written with the cluster's key: it is not read on. Delete them."
            )

    def _counts(self, word: Word) -> bool:
        if word.index in self.decided:
            return False
        if self._once and self.started.get(word.index):
            # STARTED is the permission to run, and there is one: who holds it may still be
            # running, so the task can neither start again nor become another batch's.
            return word.verb not in _ONLY_BEFORE_PERMISSION
        return True


class _Unanimous(dict[int, Word]):
    """The words of a batch whose job has ended: where there is no other, that says so."""

    def __init__(self, word: Word, known: dict[int, Word]) -> None:
        super().__init__(known)
        self._word = word

    def __contains__(self, index: object) -> bool:
        return True

    def __missing__(self, index: int) -> Word:
        return self._word

    def get(self, index: int, default: Any = None) -> Any:
        return super().get(index, self._word)


def key(batch: bytes, number: int) -> str:
    """The key of a journal entry."""
    return f"{layout.journal(batch)}{number}"


def catch_up(journal: Journal, known: int = 0) -> Generator[Op, Any, list[int]]:
    """Read the entries that are there and not folded yet; returns the indexes they decided.

    Who has heard that the numbers below `known` are taken reads exactly those; else the reader
    asks for one entry, and for more at once each time that all it asked for were there.

    A process may run several procedures on one journal at once: what another of them has folded
    in meanwhile is not folded in again (nor returned again).
    """
    fresh: list[int] = []
    window = 1
    prefix = layout.journal(journal.batch)
    while True:
        first = journal.next
        if known > first:
            window = known - first
        keys = tuple(f"{prefix}{first + offset}" for offset in range(window))
        entries = yield from _read(keys)
        for offset, entry in enumerate(entries):
            if entry is None:
                return fresh
            if journal.next == first + offset:
                fresh += journal.apply(entry)
        if journal.complete or (known and journal.next >= known):
            return fresh
        # Each request costs, and most readers are one entry behind.
        window = min(2 * window, READ_AHEAD)


def _read(keys: tuple[str, ...]) -> Generator[Op, Any, list[Entry | None]]:
    bodies: list[Any]
    if len(keys) == 1:
        try:
            bodies = [(yield Get(keys[0]))]
        except TamperedError:
            return [VOID]
    else:
        bodies = yield GetMany(keys)
    return [
        None
        if body is None
        else VOID
        if isinstance(body, TamperedError)
        else unseal(Entry, body, one)
        for one, body in zip(keys, bodies, strict=True)
    ]


def append(
    journal: Journal,
    words: Sequence[Word],
    *,
    claim: int,
    durations: tuple[Duration, ...] = (),
) -> Generator[Op, Any, list[int]]:
    """Say words about tasks; returns the indexes decided meanwhile, by us or by anybody.

    Why this is right: a lost number belongs to a winner that is folded in before the next try,
    and what the winner made void is dropped. So what is written counted when it was written,
    numbers have no gaps, and nothing is said twice.

    Several procedures of one process may append to one journal at once. They compete like
    strangers, so another of them may fold an entry in before we hear that it stands: then it is
    not folded in again (nor are its indexes returned again).
    """
    fresh: list[int] = []
    standing = journal.sift(words)
    while standing:
        entry = Entry(claim, standing, durations)
        number = journal.next
        at = key(journal.batch, number)
        try:
            winner: bytes | None = yield Create(at, seal(entry))
        except TamperedError:
            if journal.next == number:
                journal.apply(VOID)
            continue
        if journal.next == number:
            fresh += journal.apply(entry if winner is None else unseal(Entry, winner, at))
        if winner is None:
            break
        standing = journal.sift(standing)
    return fresh
