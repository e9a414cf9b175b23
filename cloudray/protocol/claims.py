"""Claiming, taking over, giving back and retiring batches.

A claim is a lease, not a lock: it keeps two agents from doing the same work as a rule. What is
true of a task is decided in the journal alone, so a claim that was lost too early costs a
duplicate run and never a second visible result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Claim, seal, unseal
from cloudray.store.base import Create, Delete, Get, Op
from cloudray.store.layout import QueueName, claim_of


class Won(msgspec.Struct, frozen=True):
    """The claim is ours, and there is work left."""

    batch: Batch
    journal: Journal
    claim: int


class Lost(msgspec.Struct, frozen=True):
    """Somebody else holds this claim number."""

    agent: str


class Finished(msgspec.Struct, frozen=True):
    """Nothing is left to do; the queue entry is gone."""

    journal: Journal


class Early(msgspec.Struct, frozen=True):
    """The hint outran the put: the claim was given back."""


Outcome = Won | Lost | Finished | Early


def submit(name: QueueName, batch: Batch) -> Generator[Op, Any, None]:
    """Put a batch into the queue.

    Batch ids are never reused and the nonce tells our own write, so losing is impossible; the
    create (rather than a put) keeps a delayed duplicate of the request from resurrecting an
    entry with other content.
    """
    yield Create(claim_of(name.stem, 0), seal(batch))


def claim(
    name: QueueName, number: int, agent: str, carried: Batch | None = None
) -> Generator[Op, Any, Outcome]:
    """Try to become the holder of a batch by its claim of this number (1 or more).

    `carried` is the batch, when whoever rang the bell sent it along. One that was given away is
    not run on that word alone: `settle` would make its origin point to an entry that may never
    arrive.

    Why the journal is read after the claim is won: a batch that completed before has its last
    word in the journal before its entry is deleted, so a claim created late (on an old hint, or
    after the claims were deleted too) finds the journal complete and does nothing.
    """
    stem = name.stem
    winner: bytes | None = yield Create(claim_of(stem, number), seal(Claim(agent)))
    if winner is not None:
        return Lost(unseal(Claim, winner, claim_of(stem, number)).agent)
    journal = Journal(name.batch, name.size)
    entry_key = claim_of(stem, 0)
    body: bytes | None = yield Get(entry_key)
    if body is not None:
        batch = unseal(Batch, body, entry_key)
    elif carried is not None and not any(task.origin for task in carried.tasks):
        batch = carried
    else:
        batch = None
    if batch is not None and batch.once:
        journal.set_once()
    yield from journals.catch_up(journal)
    if journal.complete:
        yield from retire(name)
        return Finished(journal)
    if batch is None:
        yield from give_back(name, number)
        return Early()
    return Won(batch, journal, number)


def give_back(name: QueueName, number: int) -> Generator[Op, Any, bool]:
    """Let go of a batch of which nothing has started; returns whether our claim was the last.

    A claim that names nobody is dead from birth: the next agent takes it without waiting for a
    lease. Losing the number means that somebody took the batch over already.
    """
    winner: bytes | None = yield Create(claim_of(name.stem, number + 1), seal(Claim("")))
    return winner is None


def still_last(name: QueueName, number: int) -> Generator[Op, Any, bool]:
    """Whether no later claim than ours exists (for an agent that may have been thought dead)."""
    later: bytes | None = yield Get(claim_of(name.stem, number + 1))
    return later is None


def retire(name: QueueName) -> Generator[Op, Any, None]:
    """Remove the queue entry of a batch whose journal is complete.

    Its claims stay for a lease, so that an agent acting on an old listing loses the claim
    instead of winning a number that was free again.
    """
    yield Delete((claim_of(name.stem, 0),))


def sweep(name: QueueName, last_claim: int) -> Generator[Op, Any, bool]:
    """Remove claims that lie there without their entry; returns whether they are gone.

    Only if the journal is complete. Else the hint outran a put that may still arrive, and a
    claim number that was free again could be held twice: by whoever won it before and was slow
    to read the entry, and by whoever wins it next.
    """
    journal = Journal(name.batch, name.size)
    yield from journals.catch_up(journal)
    if journal.complete:
        yield forget(name, last_claim)
    return journal.complete


def forget(name: QueueName, last_claim: int) -> Delete:
    """The operation that removes a retired batch's claims.

    For whoever knows that the journal is complete: then a number that is free again may be won,
    and its winner finds nothing to do.
    """
    return Delete(tuple(claim_of(name.stem, number) for number in range(1, last_claim + 1)))
