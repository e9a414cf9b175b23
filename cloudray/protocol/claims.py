"""Claiming, taking over, giving back and retiring batches.

A claim is a lease, not a lock: it keeps two agents from doing the same work as a rule. What is
true of a task is decided in the journal alone, so a claim that was lost too early costs a
duplicate run and never a second visible result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec

from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Claim, seal, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Delete, Entry, Get, GetMany, List, Op, Put
from cloudray.store.envelope import RecordError, VersionError
from cloudray.store.layout import QueueName, claim_of, parse_queue
from cloudray.store.procedures import Procedure, Together
from cloudray.store.signing import TamperedError


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


class Refused(msgspec.Struct, frozen=True):
    """What lies in the queue is no batch of ours, or a record of it cannot be read: leave it."""

    error: RecordError


Outcome = Won | Lost | Finished | Early | Refused

#: So many claims are looked past that are none of ours.
_LOOK_PAST = 8
#: Claims that are looked at in one go.
_MANY = 64


def submit(name: QueueName, batch: Batch) -> Generator[Op, Any, None]:
    """Put a batch into the queue.

    Batch ids are never reused and the nonce tells our own write, so losing is impossible; the
    create (rather than a put) keeps a delayed duplicate of the request from resurrecting an
    entry with other content.
    """
    body = seal(batch)
    try:
        yield Create(claim_of(name.stem, 0), body)
    except TamperedError:
        # Somebody has guessed our next name, and lies there. It is ours, and he is none of us.
        yield Put(claim_of(name.stem, 0), body)


def claim(
    name: QueueName,
    number: int,
    agent: str,
    carried: Batch | None = None,
    prompt: Callable[[], bool] | None = None,
) -> Procedure[Outcome]:
    """Try to become the holder of a batch by its claim of this number (1 or more).

    `carried` is the batch, when whoever rang the bell sent it along. One that was given away is
    not run on that word alone: `settle` would make its origin point to an entry that may never
    arrive.

    Why the journal is read after the claim is won: a batch that completed before has its last
    word in the journal before its entry is deleted, so a claim created late (on an old hint, or
    after the claims were deleted too) finds the journal complete and does nothing.

    Why a first claim may be created with both reads beside it, where requests take long: `prompt`
    says afterwards whether all that took less than half a lease. If so, no claim can have been
    removed since we began, for that happens a lease after the entry was; so whoever might have
    completed the batch since we read would still hold the number that we won. A cancel may have
    come between, as it may at any time before a task starts. A later claim, which follows another
    agent's work, reads what that has said last; and what must not run twice trusts no clock, and
    reads the journal again.
    """
    create = Create(claim_of(name.stem, number), seal(Claim(agent)))
    try:
        won = yield from _win(create, claim_of(name.stem, 0), journals.key(name.batch, 0), prompt)
    except VersionError as error:
        return Refused(error)  # somebody of another version holds it
    if isinstance(won, Lost):
        return won
    try:
        return (yield from _look_into(name, number, carried, *won))
    except RecordError as error:
        # It is held by nobody then, which tells its submitter that it will not run; whoever can
        # read it may go on, for nothing has started here.
        yield from give_back(name, number)
        return Refused(error)


def _look_into(
    name: QueueName,
    number: int,
    carried: Batch | None,
    body: bytes | None,
    begun: bytes | None,
    is_read: bool,  # noqa: FBT001 - one of the three that `_win` returns
) -> Procedure[Outcome]:
    """See whether there is work left in a batch whose claim is ours."""
    journal = Journal(name.batch, name.size)
    entry_key = claim_of(name.stem, 0)
    is_read = is_read and (body is not None or carried is not None)
    if not is_read:
        body = yield Get(entry_key)
    if body is not None:
        batch: Batch | None = unseal(Batch, body, entry_key)
    elif carried is not None and not any(task.origin for task in carried.tasks):
        batch = carried
    else:
        batch = None
    if batch is not None and batch.once:
        journal.set_once()
        is_read = False
    if not is_read or begun is not None:
        yield from journals.catch_up(journal)
    if journal.complete:
        yield from retire(name)
        return Finished(journal)
    if batch is None:
        yield from give_back(name, number)
        return Early()
    return Won(batch, journal, number)


def _win(
    create: Create, entry: str, first: str, prompt: Callable[[], bool] | None
) -> Procedure[Lost | tuple[bytes | None, bytes | None, bool]]:
    """Create a claim, where that may be with both reads beside it.

    Returns the batch's entry, the first of its journal, and whether these were read promptly.
    """
    winner: bytes | None
    if prompt is not None and create.key.endswith(".1"):
        try:
            winner, body, begun = yield Together((create, Get(entry), Get(first)))
        except TamperedError:
            pass  # which of them is told by asking for each; the create is the same one
        else:
            if winner is not None:
                return Lost(_named_in(winner, create.key))
            return body, begun, prompt()
    try:
        winner = yield create
    except TamperedError:
        return Lost("")  # to what is no claim, so that it names nobody
    return (None, None, False) if winner is None else Lost(_named_in(winner, create.key))


def _named_in(body: bytes, key: str) -> str:
    """Whom a claim names; nobody where it is none. Raises `VersionError` for a newer one."""
    try:
        return unseal(Claim, body, key).agent
    except VersionError:
        raise
    except RecordError:
        return ""


def give_back(name: QueueName, number: int) -> Generator[Op, Any, bool]:
    """Let go of a batch of which nothing has started; returns whether our claim was the last.

    A claim that names nobody is dead from birth: the next agent takes it without waiting for a
    lease. Losing the number means that somebody took the batch over already.
    """
    while True:
        number += 1
        try:
            winner: bytes | None = yield Create(claim_of(name.stem, number), seal(Claim("")))
        except TamperedError:
            continue
        return winner is None


def holder(name: QueueName, last: int) -> Generator[Op, Any, str | None]:
    """Whom the last claim of a batch names (nobody: empty); None when it is gone meanwhile.

    What is no claim of ours is looked past, so that nobody can make a batch that runs look
    abandoned. Where there is too much of it the batch counts as given back: then it runs twice at
    worst, and its journal decides.
    """
    for number in range(last, max(0, last - _LOOK_PAST), -1):
        key = claim_of(name.stem, number)
        try:
            body: bytes | None = yield Get(key)
        except TamperedError:
            continue
        if body is not None:
            return _named_in(body, key)
        if number == last:
            return None
    return ""


def why_lost(name: QueueName, journal: Journal) -> Procedure[str]:
    """Why a batch that its submitter waits for will never be run, if so; else empty.

    It will not when its entry in the queue was replaced before anybody took it, or when an entry
    of its journal was after it was over. Nobody else can tell: for whoever did not write it the
    name of a batch in the queue proves nothing.
    """
    entry_key = claim_of(name.stem, 0)
    try:
        body: bytes | None = yield Get(entry_key)
    except TamperedError as error:
        page: list[Entry] = yield List(f"{name.stem}.")
        found = [parsed[1] for entry in page if (parsed := parse_queue(entry.key)) is not None]
        last = max(found, default=0)
        if last and (yield from holder(name, last)):
            return ""  # who has read it before that happened may be running it
        return str(error)
    if body is None and journal.void:
        yield from journals.catch_up(journal)
        if not journal.complete:
            return f"somebody has replaced entries of its journal, {layout.journal(name.batch)}"
    return ""


def still_last(name: QueueName, number: int, agent: str) -> Procedure[bool]:
    """Whether a claim of ours still holds (for an agent that may have been thought dead)."""
    return (yield from which_are_last([(name, number)], agent))[0]


def which_are_last(held: Sequence[tuple[QueueName, int]], agent: str) -> Procedure[list[bool]]:
    """For each claim of ours, whether it is there and no later one is; many are asked for at once.

    Why ours must be there too: whoever took the batch over may have finished it, and its claims
    been swept since, the later ones with ours; then the number may even be somebody else's. Two
    GETs tell it, which cost a sixth of what a LIST does, and show whose hand each claim is.
    """
    last: list[bool] = []
    for first in range(0, len(held), _MANY):
        some = held[first : first + _MANY]
        ours = [claim_of(name.stem, number) for name, number in some]
        next_ones = [claim_of(name.stem, number + 1) for name, number in some]
        bodies: list[Any] = yield GetMany((*ours, *next_ones))
        for (name, number), key, body, later in zip(
            some, ours, bodies[: len(some)], bodies[len(some) :], strict=True
        ):
            is_last = _is_by(agent, body, key) and (
                later is None
                or (isinstance(later, TamperedError) and (yield from _is_none_after(name, number)))
            )
            last.append(is_last)
    return last


def _is_by(agent: str, body: Any, key: str) -> bool:
    """Whether a claim that this agent has made is there still."""
    if body is None or isinstance(body, TamperedError):
        return body is not None  # overwritten: its number is nobody else's
    try:
        return unseal(Claim, body, key).agent == agent
    except RecordError:
        return False


def _is_none_after(name: QueueName, number: int) -> Procedure[bool]:
    """Whether no later claim is there that is one of ours: others cannot mean to run the batch."""
    while True:
        number += 1
        try:
            later: bytes | None = yield Get(claim_of(name.stem, number))
        except TamperedError:
            continue
        return later is None


def retire(name: QueueName) -> Generator[Op, Any, None]:
    """Remove the queue entry of a batch whose journal is complete.

    Its claims stay for a lease, so that an agent acting on an old listing loses the claim
    instead of winning a number that was free again.
    """
    yield Delete((claim_of(name.stem, 0),))


def sweep(name: QueueName, last_claim: int, *, freed: bool = False) -> Generator[Op, Any, bool]:
    """Remove claims that lie there without their entry; returns whether they are gone.

    Only if the journal is complete. Else the hint outran a put that may still arrive, and a
    claim number that was free again could be held twice: by whoever won it before and was slow
    to read the entry, and by whoever wins it next.

    `freed`: journals are removed when their batches are over, and no hint ever outruns a put, as
    in a cluster that ends with its driver. Then one that is not there was complete.
    """
    journal = Journal(name.batch, name.size)
    yield from journals.catch_up(journal)
    over = journal.complete or (freed and not journal.next)
    if over:
        yield forget(name, last_claim)
    return over


def forget(name: QueueName, last_claim: int) -> Delete:
    """The operation that removes a retired batch's claims.

    For whoever knows that the journal is complete: then a number that is free again may be won,
    and its winner finds nothing to do.
    """
    return Delete(tuple(claim_of(name.stem, number) for number in range(1, last_claim + 1)))
