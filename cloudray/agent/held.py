"""A batch that this agent has claimed, and what it knows of each of its tasks."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from cloudray.agent.functions import Known
from cloudray.protocol.claims import Won
from cloudray.protocol.records import Duration, Verb, Word
from cloudray.store.layout import QueueName

#: The attempt of a word that an agent says in place of one: no attempt's children are its own.
NOBODY = -1


class Status(IntEnum):
    """Where a task of a held batch is."""

    #: its arguments do not all exist yet
    WAITING = 0
    #: it could start now
    READY = 1
    #: an executor has it
    RUNNING = 2
    #: its final word is on its way into the journal, or there
    SAID = 3


class Death(msgspec.Struct, frozen=True):
    """How an executor ended that was running a task."""

    pid: int
    #: as `subprocess` tells it: negative for a signal
    returncode: int
    last_lines: tuple[str, ...]


class Held:
    """A claimed batch: its record, its journal, and words not published yet."""

    __slots__ = (
        "_known",
        "argument_files",
        "attempts",
        "batch",
        "busy",
        "claim",
        "deaths",
        "dropped",
        "durations",
        "job",
        "journal",
        "last_death",
        "look_again",
        "missing",
        "name",
        "once",
        "out",
        "outbox",
        "published_s",
        "ready_since_s",
        "running",
        "sent",
        "status",
        "timer",
        "told",
        "unsaid",
        "values",
    )

    def __init__(
        self, name: QueueName, won: Won, known: list[Known], job: bytes, now_s: float
    ) -> None:
        self.name = name
        self.batch = won.batch
        self.journal = won.journal
        self.claim = won.claim
        self.job = job
        self._known = known
        #: where arguments lie that were too large to travel in the batch
        self.argument_files: dict[int, bytes] = {}
        self.once = won.batch.once
        size = len(won.batch.tasks)
        self.status = [Status.WAITING] * size
        #: refs that a waiting task still lacks
        self.missing: dict[int, int] = {}
        #: values of top-level refs, by task, in the order of their placeholders
        self.values: dict[int, list[bytes]] = {}
        #: attempts begun under this claim
        self.attempts: dict[int, int] = {}
        #: tasks that an executor was sent after their STARTED was written, and may have begun
        self.sent: set[int] = set()
        #: executors that died running a task under this claim
        self.deaths: dict[int, int] = {}
        self.last_death: dict[int, Death] = {}
        #: when each running task was sent to its executor
        self.running: dict[int, float] = {}
        #: when the oldest ready task became so
        self.ready_since_s: dict[int, float] = {}
        #: calls that executors have, also of tasks that others' words have decided meanwhile
        self.out = 0
        self.outbox: list[Word] = []
        self.durations: dict[str, list[int]] = {}
        #: tasks without a final word in the journal or the outbox
        self.unsaid = size
        self.published_s = now_s
        #: drivers have been told of the journal's entries below this number
        self.told = won.journal.next
        #: a procedure is at work on the journal; another must wait
        self.busy = False
        self.look_again = False
        self.timer = False
        #: the batch is another's now, or finished: late news of its tasks is dropped
        self.dropped = False

    def known_of(self, index: int) -> Known:
        """The function of a task."""
        return self._known[self.batch.tasks[index].shape]

    def arguments_of(self, index: int) -> bytes:
        """The serialized arguments of a task, or the local file they are in."""
        return self.argument_files.get(index) or self.batch.tasks[index].arguments

    def is_unfinished(self, index: int) -> bool:
        """Whether a task is yet to run here, or may be running."""
        return not self.dropped and self.status[index] is not Status.SAID

    def careful(self, index: int) -> bool:
        """Whether STARTED must be written before this task starts, so it runs alone."""
        return self.once or self.claim > 1 or index in self.deaths

    def is_permitted(self, index: int) -> bool:
        """Whether the STARTED of a task's coming attempt stands, and nobody has begun that yet.

        Of a task with `max_retries=0` it must be the first one.
        """
        said = self.journal.started.get(index)
        if not said or index in self.sent:
            return False
        pair = (self.claim, self.attempts.get(index, 0))
        return said[0] == pair if self.once else pair in said

    def say(self, word: Word) -> None:
        """Put a final word into the outbox, unless the task has one."""
        index = word.index
        if self.status[index] is Status.SAID:
            return
        self._decided(index)
        self.outbox.append(word)

    def take_back(self, words: list[Word]) -> None:
        """Words that could not be published: the final ones go back into the outbox."""
        self.outbox[:0] = [word for word in words if word.verb is not Verb.STARTED]

    def is_fresh(self, index: int) -> bool:
        """Whether a task has never been started: one that has takes its history along nowhere."""
        return index not in self.deaths and not self.journal.started.get(index)

    def hold_back(self, index: int) -> None:
        """A ready task is leaving for another batch: it may not start here."""
        self.status[index] = Status.WAITING
        self.ready_since_s.pop(index, None)

    def note(self, indexes: list[int]) -> None:
        """The journal decided these tasks, by whatever word."""
        for index in indexes:
            if self.status[index] is not Status.SAID:
                self._decided(index)

    def _decided(self, index: int) -> None:
        self.status[index] = Status.SAID
        self.running.pop(index, None)
        self.missing.pop(index, None)
        self.unsaid -= 1

    def measure(self, function: str, calls: int, total_us: int) -> None:
        """Take in how long calls of a function took, for the next entry."""
        known = self.durations.setdefault(function, [0, 0])
        known[0] += calls
        known[1] += total_us

    def take_outbox(self, now_s: float, started_after_s: float) -> list[Word]:
        """What to publish now: final words, and STARTED for what runs long."""
        words, self.outbox = self.outbox, []
        for index, since_s in self.running.items():
            pair = (self.claim, self.attempts.get(index, 0))
            if now_s - since_s >= started_after_s and pair not in self.journal.started.get(
                index, ()
            ):
                words.append(Word(index, Verb.STARTED, attempt=pair[1]))
        return words

    def take_durations(self) -> tuple[Duration, ...]:
        """The measurements for the next entry."""
        if not self.durations:
            return ()
        taken = tuple(Duration(name, n, us) for name, (n, us) in self.durations.items())
        self.durations = {}
        return taken

    @property
    def untouched(self) -> bool:
        """Whether nothing of it has started or been said, so it may be given back."""
        return not self.running and not self.outbox and not self.journal.next
