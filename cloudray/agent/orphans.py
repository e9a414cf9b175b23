"""Tasks whose submitter is gone: an attempt that is over, where another attempt's word stands.

Their results are nobody's. While they are held here, their parents' journals are looked at now and
then; a batch that nobody can run has nobody who does so, so agents take turns at it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from cloudray.agent.held import NOBODY
from cloudray.agent.io import Io
from cloudray.exceptions import OwnerDiedError
from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.demand import is_exact, python_of
from cloudray.protocol.journal import Journal
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import ALONE, Batch, Heartbeat, Parent, Verb, Word, unseal
from cloudray.store.base import Get
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of
from cloudray.store.procedures import Procedure
from cloudray.values.outcomes import error_payload

#: So many batches that nobody can run are looked at in one turn.
_MANY = 64


def is_orphan(parent: Parent | None, journal: Journal) -> bool:
    """Whether the attempt that submitted a batch is over, and another's word stands.

    A child of a winning attempt goes on; so does one whose parent still runs, was moved, or was
    cancelled alone.
    """
    word = None if parent is None else journal.decided.get(parent.index)
    if parent is None or word is None or word.verb is Verb.MOVED:
        return False
    if word.verb is Verb.CANCELLED:
        return ALONE not in word.values
    return (journal.claims.get(parent.index), word.attempt) != (parent.claim, parent.attempt)


def last_words(batch: Batch, journal: Journal) -> list[Word]:
    """What is said of an orphan's tasks that are not decided yet."""
    error = OwnerDiedError(
        batch.id.hex(), reason="the attempt that submitted this task failed or was cancelled"
    )
    payload = error_payload(error)
    return [
        Word(index, Verb.FAILED, (payload,), NOBODY)
        for index in range(len(batch.tasks))
        if index not in journal.decided
    ]


class Unclaimed(msgspec.Struct):
    """A batch in the queue that this machine cannot run."""

    name: QueueName
    #: read, if anybody was interested yet
    batch: Batch | None = None


class Orphans:
    """Looks after batches in the queue that no agent can run, if a task has submitted them.

    `turn` says how many agents share the work. Says FAILED of orphans, under no claim: what comes
    of them is decided already by their parent's final word, which is there for good, so it makes no
    difference who says it, or whether somebody who can run them claims them at the same time.
    """

    def __init__(
        self, io: Io, rng: Random, turn: Callable[[], int], on_over: Callable[[Journal], None]
    ) -> None:
        self._io = io
        self._rng = rng
        self._turn = turn
        self._on_over = on_over
        self._met: dict[bytes, Unclaimed] = {}
        #: those that the last scan has shown
        self._seen: set[bytes] = set()
        self._parents: dict[bytes, Journal] = {}

    def met(self, name: QueueName) -> None:
        """A scan shows a batch that does not fit this machine."""
        self._seen.add(name.batch)
        if name.batch not in self._met:
            self._met[name.batch] = Unclaimed(name)

    async def look(self) -> None:
        """After a scan: look at some of what it has shown, if it is this agent's turn."""
        self._met = {batch: one for batch, one in self._met.items() if batch in self._seen}
        self._seen.clear()
        if not self._met or self._rng.random() * self._turn() > 1:
            return
        beats = await self._io.do(heartbeats())
        stuck = [one for one in self._met.values() if not _anybody_runs(one.name, beats)]
        for one in self._rng.sample(stuck, min(_MANY, len(stuck))):
            try:
                await self._look_at(one)
            except RecordError as error:
                self._io.complain(error)
        wanted = {parent.batch for one in stuck if (parent := _parent_of(one)) is not None}
        self._parents = {batch: self._parents[batch] for batch in wanted & self._parents.keys()}

    async def _look_at(self, one: Unclaimed) -> None:
        if one.batch is None:
            key = claim_of(one.name.stem, 0)
            body = await self._io.store.perform_async(Get(key))
            if body is None:
                return
            one.batch = unseal(Batch, body, key)
        parent = one.batch.parent
        if parent is None:
            # Only who submitted it may cancel it; its arguments need not be kept here.
            one.batch = msgspec.structs.replace(one.batch, tasks=())
            return
        journal = self._parents.setdefault(parent.batch, Journal(parent.batch))
        await self._io.do(journals.catch_up(journal))
        if is_orphan(parent, journal):
            over = await self._io.do(_bury(one.name, one.batch))
            self._met.pop(one.name.batch, None)
            self._on_over(over)


def _bury(name: QueueName, batch: Batch) -> Procedure[Journal]:
    journal = Journal(batch.id, len(batch.tasks), once=batch.once)
    yield from journals.catch_up(journal)
    yield from journals.append(journal, last_words(batch, journal), claim=0)
    if journal.complete:
        yield from claims.retire(name)
    return journal


def _parent_of(one: Unclaimed) -> Parent | None:
    return None if one.batch is None else one.batch.parent


def _anybody_runs(name: QueueName, beats: list[Heartbeat]) -> bool:
    """Whether some agent can run every task of a class, so that it will look after the batch."""
    python = python_of(name.klass)
    return any(
        (not beat.python or beat.python == python) and is_exact(name.klass, beat.total)
        for beat in beats
    )
