"""Resolving refs: which word, in which journal, decides a value."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import ALONE, FORCE, Verb, Word
from cloudray.protocol.sharing import at
from cloudray.store.base import Op


class Results:
    """The journals that one process reads, and the way from a ref to its final word.

    The journal is all that any process needs: a MOVED is followed to the batch it names, and
    the first final word found there is the answer for good.
    """

    __slots__ = ("journals",)

    def __init__(self) -> None:
        self.journals: dict[bytes, Journal] = {}

    def journal(self, batch: bytes) -> Journal:
        """The fold of this batch's journal, empty if nobody asked before."""
        found = self.journals.get(batch)
        if found is None:
            found = self.journals[batch] = Journal(batch)
        return found

    def find(self, identifier: bytes) -> Word | None:
        """The final word on the task behind a ref, or None while there is none (known here)."""
        batch = ids.unit_of(identifier)
        journal = self.journals.get(batch)
        if journal is None:
            return None
        word = journal.decided.get(int.from_bytes(identifier[25:27], "big"))
        while word is not None and word.verb is Verb.MOVED:
            batch, index = at(word.values[0])
            journal = self.journals.get(batch)
            word = None if journal is None else journal.decided.get(index)
        return word

    def waiting_on(self, identifier: bytes) -> tuple[bytes, int]:
        """The batch and index whose journal will say the next word about a ref."""
        batch, index = ids.unit_of(identifier), ids.index_of(identifier)
        while True:
            journal = self.journals.get(batch)
            word = None if journal is None else journal.decided.get(index)
            if word is None or word.verb is not Verb.MOVED:
                return batch, index
            batch, index = at(word.values[0])

    def follow(self, identifier: bytes) -> Generator[Op, Any, Word | None]:
        """Read what the journals say now about a ref, along every MOVED."""
        while True:
            batch, index = self.waiting_on(identifier)
            yield from journals.catch_up(self.journal(batch))
            if index not in self.journal(batch).decided:
                return None
            word = self.find(identifier)
            if word is not None:
                return word

    def cancel(
        self, identifier: bytes, *, force: bool, recursive: bool = True
    ) -> Generator[Op, Any, Word]:
        """Say CANCELLED of a task where its next word is due; returns its final word.

        Unless `recursive`, the tasks that it submitted go on.
        When CANCELLED is the first final word the task never was; else what it returned or
        raised before stands. A MOVED that came first is followed, and cancelled there.
        """
        said = (FORCE,) * force + (ALONE,) * (not recursive)
        while True:
            batch, index = self.waiting_on(identifier)
            words = [Word(index, Verb.CANCELLED, said)]
            yield from journals.append(self.journal(batch), words, claim=0)
            word = self.find(identifier)
            if word is not None:
                return word
