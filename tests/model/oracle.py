"""An oracle that reads the journals of a store anew, sharing no code with the protocol's fold.

So a mistake in the fold does not hide itself.
"""

from __future__ import annotations

from typing import NamedTuple

from cloudray.protocol.records import Entry, Verb, Word, unseal
from cloudray.store import layout
from tests.model.world import named


class Reading(NamedTuple):
    """What the journals of one store say."""

    #: per batch, per task: the first word that decides there
    decided: dict[bytes, dict[int, Word]]
    #: what cannot be right about them, by kind of violation
    wrong: dict[str, str]

    def verdict(self, batch: bytes, index: int) -> Word | None:
        """The final word on a task, along every MOVED."""
        word = self.decided[batch].get(index)
        while word is not None and word.verb is Verb.MOVED:
            batch, index = _target(word)
            word = self.decided[batch].get(index)
        return word


def read(objects: dict[str, bytes], *batches: bytes) -> Reading:
    """Read the journals of these batches, of all in the queue, and of all that work moved to.

    Finds these wrong: `gap`, a number was left out; `dangling`, a task moved to a batch that is
    not there; `slander`, a task is called crashed by a claim that no run can have preceded.
    """
    queued = {
        named(key[:-2]).batch
        for key in objects
        if key.startswith(layout.QUEUE) and key.endswith(".0")
    }
    reading = Reading({}, {})
    todo = [*batches, *queued]
    while todo:
        batch = todo.pop()
        if batch not in reading.decided:
            decided = read_one(objects, batch, reading.wrong)
            reading.decided[batch] = decided
            todo += [_target(word)[0] for word in decided.values() if word.verb is Verb.MOVED]
    for decided in reading.decided.values():
        for index, word in decided.items():
            if word.verb is Verb.MOVED:
                target, there = _target(word)
                if target not in queued and there not in reading.decided[target]:
                    reading.wrong["dangling"] = (
                        f"task {index} moved to {target[11:].hex()}, which is not in the queue "
                        "and has not decided it"
                    )
    return reading


def read_one(
    objects: dict[str, bytes], batch: bytes, wrong: dict[str, str] | None = None
) -> dict[int, Word]:
    """The first deciding words in one journal; notes what is wrong in `wrong`."""
    wrong = {} if wrong is None else wrong
    prefix = layout.journal(batch)
    entries = {
        int(key[len(prefix) :]): unseal(Entry, body, key)
        for key, body in objects.items()
        if key.startswith(prefix)
    }
    if entries and max(entries) >= len(entries):
        wrong["gap"] = f"a journal has only the entries {sorted(entries)}"
    decided: dict[int, Word] = {}
    #: per task, the lowest claim that started it
    started: dict[int, int] = {}
    for _, entry in sorted(entries.items()):
        for word in entry.words:
            if word.verb is Verb.STARTED:
                started[word.index] = min(entry.claim, started.get(word.index, entry.claim))
            elif word.index not in decided:
                decided[word.index] = word
                if word.verb is Verb.FAILED and not started.get(word.index, 1 << 32) <= entry.claim:
                    wrong["slander"] = (
                        f"claim {entry.claim} says that task {word.index} crashed, but no claim "
                        "up to it started the task"
                    )
    return decided


def _target(moved: Word) -> tuple[bytes, int]:
    return moved.values[0][:25], int.from_bytes(moved.values[0][25:], "big")
