"""What everybody has read in a simulated world, and whether it fits together."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Entry, Verb, Word, unseal
from cloudray.protocol.results import Results
from cloudray.store import envelope, layout
from cloudray.store.base import Create, Get, GetMany, Op, Put
from cloudray.store.layout import QueueName
from cloudray.store.procedures import drive
from cloudray.testing import programs
from cloudray.testing.executors import Runs
from cloudray.testing.history import short
from cloudray.testing.programs import Value
from cloudray.testing.scripts import Script, Submitted
from cloudray.values import codec
from cloudray.values.outcomes import load

if TYPE_CHECKING:
    from cloudray.testing.world import World

_RESULTS = "/results/"
#: Priced requests that a world may cost: per batch, per agent and second, and besides.
_PER_BATCH, _PER_AGENT_S, _BESIDES = 60, 15, 1000


class ViolationError(Exception):
    """An invariant does not hold: the message says which, and where."""


class Readings:
    """Listens to the bucket, and checks the invariants in the end."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.batches: dict[bytes, Batch] = {}
        self._names: dict[bytes, QueueName] = {}
        #: by key of a journal entry, the nonce that its first reader saw, and who that was
        self._seen: dict[str, tuple[bytes, str]] = {}
        self._journals: dict[str, Journal] = {}
        self._unfinished: set[str] = set()
        self._early: dict[str, list[tuple[int, Entry]]] = {}
        self.disagreement = ""

    def note(self, who: str, op: Op, answer: Any) -> None:
        """The bucket has done an operation."""
        kind = type(op)
        if kind is Get:
            if answer is not None and _RESULTS in op.key:  # type: ignore[union-attr]
                self._read(who, op.key, answer)  # type: ignore[union-attr]
        elif kind is GetMany:
            for key, body in zip(op.keys, answer, strict=True):  # type: ignore[union-attr]
                if body is not None and _RESULTS in key:
                    self._read(who, key, body)
        elif (kind is Create and answer) or kind is Put:
            self._written(op)  # type: ignore[arg-type]

    def _read(self, who: str, key: str, body: bytes) -> None:
        nonce = envelope.nonce_of(body)
        first = self._seen.setdefault(key, (nonce, who))
        if first[0] != nonce and not self.disagreement:
            self.disagreement = f"{who} reads another entry at {short(key)} than {first[1]} did"

    def _written(self, op: Create | Put) -> None:
        key = op.key
        if key.startswith(layout.QUEUE) and key.endswith(".0"):
            name = layout.parse_stem(key[:-2])
            if name is None or name.batch in self.batches:
                return
            batch = unseal(Batch, bytes(op.body), key)  # type: ignore[arg-type]
            self.batches[name.batch] = batch
            self._names[name.batch] = name
            self._follow(layout.journal(name.batch), name.batch, name.size, once=batch.once)
        elif _RESULTS in key:
            stem, _, number = key.rpartition(".")
            entry = unseal(Entry, bytes(op.body), key)  # type: ignore[arg-type]
            if stem + "." in self._journals:
                self._apply(stem + ".", int(number), entry)
            else:
                # A cancellation may come before what it cancels.
                self._early.setdefault(stem + ".", []).append((int(number), entry))

    def _apply(self, stem: str, number: int, entry: Entry) -> None:
        journal = self._journals[stem]
        if number == journal.next:
            journal.apply(entry)
            if journal.complete:
                self._unfinished.discard(stem)

    def _follow(self, stem: str, batch: bytes, size: int, *, once: bool) -> None:
        self._journals[stem] = Journal(batch, size, once=once)
        self._unfinished.add(stem)
        for number, entry in self._early.pop(stem, ()):
            self._apply(stem, number, entry)

    def unfinished(self) -> int:
        """How many batches are not complete."""
        return len(self._unfinished)

    def left_in_queue(self, world: World) -> list[str]:
        """What lies in the queue of batches that were stored.

        A claim whose batch was announced, but not stored before its driver died, lies there until
        its job is deleted: nobody can know that the batch does not arrive any more.
        """
        stored = {name.stem for name in self._names.values()}
        keys = [entry.key for entry in world.bucket.memory.list(layout.QUEUE, limit=1 << 20)]
        return [key for key in keys if key.rpartition(".")[0] in stored]

    # -- in the end ----------------------------------------------------------------------------

    def check_over(self, world: World) -> None:
        """Everything that was submitted is over."""
        waiting = [driver.process.name for driver in world.drivers if driver.alive]
        if self._unfinished:
            stem = min(self._unfinished)
            journal = self._journals[stem]
            batch = self.batches[journal.batch]
            left = [index for index in range(len(batch.tasks)) if index not in journal.decided]
            keys = [programs.decode(batch.tasks[index].arguments).key for index in left[:3]]
            raise ViolationError(
                f"{len(self._unfinished)} batches starve or are lost; of {short(stem)} tasks "
                f"{left[:5]} ({', '.join(keys)}) have no final word"
            )
        if waiting:
            raise ViolationError(f"{waiting[0]} still waits, though all that was submitted is over")

    def check_end(self, world: World) -> None:
        """Nothing is left in the queue, all readers agree, and every value is right."""
        if left := self.left_in_queue(world):
            raise ViolationError(f"left in the queue: {', '.join(map(short, left[:5]))}")
        if self.disagreement:
            raise ViolationError(self.disagreement)
        spent = world.bucket.ledger.priced_requests
        budget = _PER_BATCH * len(self.batches) + _BESIDES
        budget += int(_PER_AGENT_S * len(world.agents) * world.scheduler.now_s)
        if spent > budget:
            raise ViolationError(f"{spent} priced requests, where {budget} should do")
        results = Results()
        for batch, name in self._names.items():
            results.journals[batch] = Journal(batch, name.size, once=self.batches[batch].once)
            drive(world.bucket.memory, journals.catch_up(results.journals[batch]))
        winners = self._winners(world, results)
        for key, run in self._runs.received:
            if winners.get(key) != run:
                raise ViolationError(
                    f"a task got the value of run {run} of {key}, but not that stands"
                )
        self._check_runs()
        for script in world.scripts:
            self._check_script(world, script, results, winners)

    def _winners(self, world: World, results: Results) -> dict[str, int]:
        winners: dict[str, int] = {}
        for batch, record in self.batches.items():
            for index, task in enumerate(record.tasks):
                word = results.journals[batch].decided.get(index)
                if word is None:
                    raise ViolationError(
                        f"task {index} of {short(layout.journal(batch))} has no word"
                    )
                if word.verb is Verb.DONE:
                    value = _value_of(world, word)
                    key = programs.decode(task.arguments).key
                    if value.key != key:
                        raise ViolationError(f"{key} has the value of {value.key}")
                    winners[key] = value.run
        return winners | self._winners_unstored(world)

    def _winners_unstored(self, world: World) -> dict[str, int]:
        """The same of batches that ran on a hint that carried them, and never were stored."""
        winners: dict[str, int] = {}
        for entries in self._early.values():
            journal = Journal(b"")
            for number, entry in sorted(entries, key=itemgetter(0)):
                if number == journal.next:
                    journal.apply(entry)
            for word in journal.decided.values():
                if word.verb is Verb.DONE:
                    value = _value_of(world, word)
                    winners[value.key] = value.run
        return winners

    def _check_runs(self) -> None:
        for batch in self.batches.values():
            for task in batch.tasks:
                program = programs.decode(task.arguments)
                if program.max_retries == 0 and self._runs.started.get(program.key, 0) > 1:
                    raise ViolationError(f"{program.key} has max_retries=0, and ran twice")

    def _check_script(
        self, world: World, script: Script, results: Results, winners: dict[str, int]
    ) -> None:
        expected: dict[bytes, int | None] = {}
        may_fail: dict[bytes, bool] = {}
        for one in script.submitted:
            unit = one.ref.id[:25]
            if unit not in self.batches:
                if script.read:
                    raise ViolationError(f"the batch of {one.program.key} was never stored")
                continue
            word = results.find(one.ref.id)
            if word is None:
                raise ViolationError(
                    f"{one.program.key} has no final word: its MOVED leads nowhere"
                )
            number = one.expected(expected)
            value = _value_of(world, word) if word.verb is Verb.DONE else None
            _check_value(one, value, number, may_fail=one.may_fail(may_fail))
            if script.read:
                _check_read(one, value)
        del winners


def _check_value(
    one: Submitted, value: Value | None, number: int | None, *, may_fail: bool
) -> None:
    key = one.program.key
    if value is None:
        if number is not None and not may_fail:
            raise ViolationError(f"{key} failed: {one.error!r}")
    elif value.number != number:
        raise ViolationError(f"{key} came to {value.number}, not {number}")


def _check_read(one: Submitted, value: Value | None) -> None:
    if one.value != value:
        raise ViolationError(
            f"the driver of {one.program.key} has read {one.value or one.error!r}, but {value} "
            "stands in the journal"
        )


def _value_of(world: World, word: Word) -> Value:
    payload = word.values[0]
    key = codec.stored_key(payload)
    if key is not None:
        body = world.bucket.memory.get(key)
        if body is None:
            raise ViolationError(f"the value at {short(key)} is not there")
        payload = bytes(body[envelope.HEADER_BYTES :])
    value: Value = load(payload)
    return value
