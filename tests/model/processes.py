"""The processes of the model: they call the true protocol procedures and nothing else.

A process is a chain of phases. A phase is a method name and hashable arguments; it runs as a
generator that yields store operations and the steps below, and returns the next phase. So the
state of a process is its phase and the answers that it got in it, and nothing is hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

import msgspec

from cloudray import ids
from cloudray.protocol import claims, failures, sharing
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Verb, Word
from cloudray.protocol.results import Results
from cloudray.store.base import Op
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Together
from tests.model.world import Target, name_of, pack, prefix_of, unpack

Phase = tuple[Any, ...]


class Look(msgspec.Struct, frozen=True):
    """Find something to claim: answered with a `Target`."""

    #: stems of the bells that it has answered before
    heard: frozenset[str]


class Stray(msgspec.Struct, frozen=True):
    """Find claims that lie there without their entry: answered with name and last number."""


class Choose(msgspec.Struct, frozen=True):
    """Do one of these things; all but the first cost the budget of their name."""

    options: tuple[str, ...]


class Execute(msgspec.Struct, frozen=True):
    """Run user code; answered by whether its executor survived."""

    once: bool


class Ring(msgspec.Struct, frozen=True):
    """Tell everybody of a batch, and send it along."""

    name: QueueName
    packed: bytes


class Know(msgspec.Struct, frozen=True):
    """State what these tasks of a batch were decided as, to be compared with the truth."""

    batch: bytes
    decided: tuple[tuple[int, Word], ...]


class Tell(msgspec.Struct, frozen=True):
    """State the final word on a task of a submitted batch, to be compared with the truth."""

    batch: bytes
    index: int
    word: Word


Step = Op | Together | Look | Stray | Choose | Execute | Ring | Know | Tell
Run = Generator[Step, Any, Phase | None]


class Frozen:
    """A journal, or a process's journals, as a part of a phase: hashable, and never changed."""

    __slots__ = ("_hash", "_kept", "_key")

    def __init__(self, kept: Journal | Results) -> None:
        self._kept = copy.deepcopy(kept)
        folds = [kept] if isinstance(kept, Journal) else kept.journals.values()
        self._key = tuple(
            (
                fold.batch,
                fold.next,
                tuple(sorted(fold.decided.items())),
                tuple(sorted(fold.claims.items())),
                tuple((index, tuple(runs)) for index, runs in sorted(fold.started.items())),
            )
            for fold in folds
        )
        self._hash = hash(self._key)

    def thaw(self) -> Any:
        """A copy to work with."""
        return copy.deepcopy(self._kept)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._key == other._key


class Process:
    """One process: a tag that names it, and its phases."""

    #: whether the explorer may kill it
    mortal = True
    #: whether it does something only when every other agent is dead
    reserve = False
    #: in which order operations happen that it performs together
    beside: tuple[int, ...] = ()

    def __init__(self, tag: str, first: Phase) -> None:
        self.tag = tag
        self.first = first

    def run(self, phase: Phase) -> Run:
        """The generator of a phase."""
        generator: Run = getattr(self, phase[0])(*phase[1:])
        return generator


class Submitter(Process):
    """A driver: puts a batch into the queue."""

    def __init__(self, batch: Batch, *, rings: bool = False) -> None:
        super().__init__("driver", ("submit",))
        self._batch = batch
        self._rings = rings

    def submit(self) -> Run:
        """Put the batch; the bell goes beside the put, not after it."""
        if self._rings:
            yield Ring(name_of(self._batch), pack(self._batch))
        yield from claims.submit(name_of(self._batch), self._batch)
        return None


class Canceller(Process):
    """Cancels one task, and remembers the final word that it was told."""

    def __init__(self, batch: bytes, index: int) -> None:
        super().__init__("canceller", ("cancel", batch, index))

    def cancel(self, batch: bytes, index: int) -> Run:
        """Say CANCELLED where the next word is due."""
        word = yield from Results().cancel(ids.object_id(batch, index), force=False)
        yield Tell(batch, index, word)
        return None


class Sweeper(Process):
    """Tidies up, once, after an agent that died before it removed its claims."""

    mortal = False

    def __init__(self) -> None:
        super().__init__("sweeper", ("sweep",))

    def sweep(self) -> Run:
        """Remove the claims of a batch that has no entry, if that is right."""
        name, last = yield Stray()
        yield from claims.sweep(name, last)
        return None


class Reader(Process):
    """Waits for some tasks, one after the other, with journals that it keeps."""

    mortal = False

    def __init__(self, tag: str, tasks: tuple[tuple[bytes, int], ...]) -> None:
        super().__init__(tag, ("read", Frozen(Results()), tasks))

    def read(self, known: Frozen, tasks: tuple[tuple[bytes, int], ...]) -> Run:
        """Look once more at what the journals say about the first of the tasks."""
        results: Results = known.thaw()
        batch, index = tasks[0]
        word = yield from results.follow(ids.object_id(batch, index))
        if word is None:
            return ("read", Frozen(results), tasks)
        yield Tell(batch, index, word)
        return ("read", Frozen(results), tasks[1:]) if tasks[1:] else None


class Agent(Process):
    """Claims batches and runs their tasks one by one, with whatever the explorer chooses."""

    def __init__(
        self,
        tag: str,
        *,
        rings: bool = False,
        groups: bool = False,
        forgets: bool = False,
        notes: bool = False,
        reserve: bool = False,
        beside: tuple[int, ...] = (),
    ) -> None:
        """`beside`: it reads beside its first claims, and in which order that happens."""
        super().__init__(tag, ("look", 0, frozenset()))
        self.beside = beside
        self._prefix = prefix_of(tag)
        self._rings = rings
        self._groups = groups
        self._notes = notes
        self.forgets = forgets
        self.reserve = reserve
        self.mortal = not reserve

    def look(self, given: int, heard: frozenset[str]) -> Run:
        """Wait for something to claim."""
        target: Target = yield Look(heard)
        if self._rings:
            heard |= {target.name.stem}
        return ("claim", given, heard, target)

    def claim(self, given: int, heard: frozenset[str], target: Target) -> Run:
        """Try to become the holder."""
        carried = None if target.carried is None else unpack(target.carried)
        prompt = (lambda: True) if self.beside else None
        outcome = yield from claims.claim(target.name, target.number, self.tag, carried, prompt)
        if not isinstance(outcome, claims.Won):
            return ("look", given, heard)
        batch, journal = outcome.batch, outcome.journal
        phase = "settle" if any(task.origin for task in batch.tasks) else "work"
        held = (target.name, target.number, pack(batch), Frozen(journal), ())
        return (phase, given, heard, *held)

    def settle(self, *phase: Any) -> Run:
        """Keep only the tasks of a given-away batch that are really ours."""
        given, heard, name, number, packed, frozen, deaths = phase
        batch, journal = unpack(packed), frozen.thaw()
        yield from sharing.settle(batch, journal, claim=number)
        return ("work", given, heard, name, number, packed, Frozen(journal), deaths)

    def work(self, *phase: Any) -> Run:
        """Decide what to do next with a batch that we hold."""
        given, heard, name, number, packed, frozen, deaths = phase
        batch, journal = unpack(packed), frozen.thaw()
        yield Know(batch.id, tuple(sorted(journal.decided.items())))
        if journal.complete:
            yield from claims.retire(name)
            if self.forgets:
                return ("forget", given, heard, name, number)
            return ("look", given, heard)
        died = dict(deaths)
        ready = [index for index in self._open(batch, journal) if index not in died]
        ours = number in journal.claims.values() or any(
            claim == number for runs in journal.started.values() for claim, _ in runs
        )
        options = ["run"]
        if ready:
            options.append("gifts")
        if not ours and not died:
            options.append("returns")
        choice = yield Choose((*options, "doubts"))
        following = {"run": "start", "gifts": "share", "returns": "back", "doubts": "doubt"}
        return (following[choice], *phase)

    def start(self, *phase: Any) -> Run:
        """Start the next task (or all of them), if it may start, and publish what came of it."""
        given, heard, name, number, packed, frozen, deaths = phase
        batch, journal = unpack(packed), frozen.thaw()
        died = dict(deaths)
        words = []
        for index in self._open(batch, journal):
            word = yield from self._attempt(batch, journal, index, number, died)
            if isinstance(word, failures.Overtaken):
                return ("look", given, heard)
            words += [word] if word is not None else []
            if not self._groups:
                break
        yield from journals.append(journal, words, claim=number)
        kept = tuple(sorted(died.items()))
        return ("work", given, heard, name, number, packed, Frozen(journal), kept)

    def _open(self, batch: Batch, journal: Journal) -> list[int]:
        return [index for index in range(len(batch.tasks)) if index not in journal.decided]

    def _attempt(
        self, batch: Batch, journal: Journal, index: int, number: int, died: dict[int, int]
    ) -> Generator[Step, Any, Word | failures.Overtaken | None]:
        here = died.get(index, 0)
        step = failures.next_step(
            journal,
            index,
            claim=number,
            deaths_here=here,
            attempt=here,
            max_retries=batch.shapes[batch.tasks[index].shape].max_retries,
            once=batch.once,
        )
        if isinstance(step, failures.Overtaken):
            return step
        if isinstance(step, failures.Crashed):
            return Word(index, Verb.FAILED, (b"crashed",))
        if step.announce:
            started = Word(index, Verb.STARTED, attempt=step.attempt)
            yield from journals.append(journal, [started], claim=number)
            if index in journal.decided:
                return None
            if batch.once and journal.started[index][0] != (number, step.attempt):
                return None
        if not (yield Execute(batch.once)):
            died[index] = here + 1
            return None
        if self._notes and not step.announce:
            note = Word(index, Verb.STARTED, attempt=step.attempt)
            yield from journals.append(journal, [note], claim=number)
        return Word(index, Verb.DONE, (self.tag.encode(),), step.attempt)

    def share(self, *phase: Any) -> Run:
        """Give away half of the tasks that have not started."""
        given, heard, name, number, packed, frozen, deaths = phase
        batch, journal = unpack(packed), frozen.thaw()
        died = dict(deaths)
        ready = [index for index in self._open(batch, journal) if index not in died]
        part = sharing.part_of(batch, sharing.share_of(ready), ids.batch_id(self._prefix, given))
        there = name_of(part)
        if self._rings:
            yield Ring(there, pack(part))
        yield from sharing.give_away(journal, part, there, claim=number)
        return ("work", given + 1, heard, name, number, packed, Frozen(journal), deaths)

    def doubt(self, *phase: Any) -> Run:
        """Let go of the batch if somebody took it over."""
        given, heard, name, number, *_ = phase
        if (yield from claims.still_last(name, number, self.tag)):
            return ("work", *phase)
        return ("look", given, heard)

    def back(self, *phase: Any) -> Run:
        """Give the batch back."""
        given, heard, name, number, *_ = phase
        yield from claims.give_back(name, number)
        return ("look", given, heard)

    def forget(self, given: int, heard: frozenset[str], name: QueueName, number: int) -> Run:
        """Remove the claims of a batch that we retired."""
        yield claims.forget(name, number)
        return ("look", given, heard)
