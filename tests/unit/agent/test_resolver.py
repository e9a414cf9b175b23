from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from cloudray import ids
from cloudray.agent import resolver as resolvers
from cloudray.agent.io import Io
from cloudray.agent.resolver import Resolver
from cloudray.exceptions import ObjectLostError
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Entry, Verb, Word, seal
from cloudray.store import Counting, Ledger, MemoryStore, Op, StoreError, envelope, layout
from cloudray.values import codec
from cloudray.values.outcomes import load
from tests.unit.agent.bench import JOB
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    cancelled,
    done,
    failed,
    moved,
    write,
)

REF = ids.object_id(BATCH_ID, 0)
OTHER_REF = ids.object_id(BATCH_ID, 1)
PUT = ids.object_id(BATCH_ID, ids.PUT_INDEX)


class Directory(MemoryStore):
    """A store whose objects are files, as it says."""

    def path(self, key: str) -> Path:
        return Path("/store") / key


class Unreadable(MemoryStore):
    """A store that refuses to be read, for as long as it is said to."""

    refuses = False

    def perform(self, op: Op) -> Any:
        if self.refuses:
            raise StoreError("access denied")
        return super().perform(op)


class Heard:
    """What whoever waits was told."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []

    def __call__(self, verb: int, payload: bytes) -> None:
        self.answers.append((verb, payload))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def store(ledger: Ledger) -> Counting:
    """A store that holds the record of the job."""
    store = Counting(MemoryStore(), Ledger())
    store.put(layout.meta(BATCH_ID), seal(JOB))
    store.ledger = ledger
    return store


@pytest.fixture
def resolver(store: Counting) -> Resolver:
    return Resolver(Io(store), random.Random(1), commit_s=1.0)


def put(store: Counting, identifier: bytes, payload: bytes) -> None:
    store.put(layout.put_object(identifier), envelope.seal(envelope.Kind.OBJECT, payload))


# -- refs whose word is there --------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        (done(0, b"value"), (Verb.DONE, b"value")),
        (failed(0, b"error"), (Verb.FAILED, b"error")),
        (cancelled(0), (Verb.CANCELLED, b"")),
    ],
)
async def test_a_word_that_is_there_is_told(
    resolver: Resolver, store: Counting, heard: Heard, word: Word, answer: tuple[Verb, bytes]
) -> None:
    write(store, BATCH_ID, Entry(1, (word,)))
    resolver.want(REF, heard)
    await asyncio.sleep(0)
    assert heard.answers == [answer]


async def test_each_return_value_is_told_to_who_wants_it(
    resolver: Resolver, store: Counting
) -> None:
    write(store, BATCH_ID, Entry(1, (Word(0, Verb.DONE, (b"first", b"second")),)))
    first, second = Heard(), Heard()
    resolver.want(ids.object_id(BATCH_ID, 0, 1), second)
    resolver.want(ids.object_id(BATCH_ID, 0, 0), first)
    await asyncio.sleep(0)
    assert (first.answers, second.answers) == ([(Verb.DONE, b"first")], [(Verb.DONE, b"second")])


async def test_a_word_that_is_known_is_told_at_once(
    resolver: Resolver, store: Counting, ledger: Ledger, heard: Heard
) -> None:
    write(store, BATCH_ID, Entry(1, (done(0), done(1))))
    resolver.want(REF, heard)
    await asyncio.sleep(0)
    before = ledger.as_dict()
    resolver.want(OTHER_REF, heard)
    assert len(heard.answers) == 2
    assert ledger.subtract(before) == Ledger()


async def test_a_task_that_went_elsewhere_is_followed(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    write(store, BATCH_ID, Entry(1, (moved(0, OTHER_ID, 4),)))
    write(store, OTHER_ID, Entry(1, (done(4, b"there"),)))
    resolver.want(REF, heard)
    await asyncio.sleep(1)
    assert heard.answers == [(Verb.DONE, b"there")]


# -- refs whose word is to come ------------------------------------------------------------


async def test_a_word_that_comes_later_is_waited_for(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    resolver.want(REF, heard)
    await asyncio.sleep(5)
    assert heard.answers == []
    write(store, BATCH_ID, Entry(1, (done(0),)))
    await asyncio.sleep(2)
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_a_word_is_waited_for_although_the_store_has_refused_a_look(heard: Heard) -> None:
    store = Unreadable()
    store.put(layout.meta(BATCH_ID), seal(JOB))
    resolver = Resolver(Io(store), random.Random(1), commit_s=1.0)
    store.refuses = True
    resolver.want(REF, heard)
    await asyncio.sleep(5)
    assert heard.answers == []
    store.refuses = False
    write(store, BATCH_ID, Entry(1, (done(0),)))
    await asyncio.sleep(2)
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_all_who_wait_are_told_once(resolver: Resolver, store: Counting) -> None:
    waiters = [Heard() for _ in range(3)]
    for heard in waiters:
        resolver.want(REF, heard)
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)))
    await asyncio.sleep(5)
    assert [len(heard.answers) for heard in waiters] == [1, 1, 1]


async def test_refs_of_one_batch_are_waited_for_together(
    resolver: Resolver, ledger: Ledger, heard: Heard
) -> None:
    for index in range(100):
        resolver.want(ids.object_id(BATCH_ID, index), heard)
    await asyncio.sleep(0.001)
    # The first entry of the batch's journal, and whether its job exists and has not ended.
    assert ledger == Ledger(get=3)


async def test_looks_grow_rarer_until_one_in_a_commit_interval(
    resolver: Resolver, ledger: Ledger, heard: Heard
) -> None:
    resolver.want(REF, heard)
    await asyncio.sleep(20)
    before = ledger.priced_requests
    await asyncio.sleep(20)
    assert 15 <= ledger.priced_requests - before <= 30


async def test_nobody_looks_when_nobody_waits(
    resolver: Resolver, store: Counting, ledger: Ledger, heard: Heard
) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)))
    resolver.want(REF, heard)
    await asyncio.sleep(2)
    before = ledger.as_dict()
    await asyncio.sleep(60)
    assert ledger.subtract(before) == Ledger()


# -- batches that this agent holds ---------------------------------------------------------


async def test_the_journal_of_a_held_batch_is_not_looked_at(
    resolver: Resolver, ledger: Ledger, heard: Heard
) -> None:
    journal = Journal(BATCH_ID, 2)
    resolver.hold(journal)
    resolver.want(REF, heard)
    await asyncio.sleep(60)
    assert ledger == Ledger()
    journal.apply(Entry(1, (done(0),)))
    resolver.decided(BATCH_ID, [0])
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_who_waited_before_the_batch_was_claimed_is_told(
    resolver: Resolver, heard: Heard
) -> None:
    resolver.want(REF, heard)
    journal = Journal(BATCH_ID, 2)
    journal.apply(Entry(1, (done(0),)))
    resolver.hold(journal)
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_a_batch_that_was_let_go_is_looked_at_again(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    resolver.hold(Journal(BATCH_ID, 2))
    resolver.want(REF, heard)
    resolver.let_go(BATCH_ID)
    write(store, BATCH_ID, Entry(1, (done(0),)))
    await asyncio.sleep(5)
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_the_journal_of_a_batch_that_was_let_go_is_forgotten(resolver: Resolver) -> None:
    resolver.hold(Journal(BATCH_ID, 2))
    resolver.let_go(BATCH_ID)
    assert resolver.results.journals == {}


async def test_nobody_is_lost_when_the_first_who_is_told_ends_the_batch(
    resolver: Resolver, heard: Heard
) -> None:
    journal = Journal(BATCH_ID, 2)
    resolver.hold(journal)

    def end_batch(*_: object) -> None:
        journal.apply(Entry(1, (failed(1),)))
        resolver.decided(BATCH_ID, [1])
        resolver.let_go(BATCH_ID)

    second = Heard()
    resolver.want(REF, end_batch)
    resolver.want(REF, heard)
    resolver.want(OTHER_REF, second)
    journal.apply(Entry(1, (failed(0),)))
    resolver.decided(BATCH_ID, [0])
    assert heard.answers == [(Verb.FAILED, b"error")]
    assert second.answers == [(Verb.FAILED, b"error")]


async def test_journals_that_nobody_waits_for_are_not_kept_without_end(
    resolver: Resolver, store: Counting, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvers, "_MAX_JOURNALS", 10)
    for number in range(30):
        batch = ids.batch_id(BATCH_ID[:21], 100 + number)
        write(store, batch, Entry(1, (done(0),)))
        resolver.want(ids.object_id(batch, 0), heard)
        await asyncio.sleep(0.1)
    assert len(heard.answers) == 30
    assert len(resolver.results.journals) <= 10


# -- values that lie elsewhere -------------------------------------------------------------


async def test_a_value_that_was_put_is_read(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    put(store, PUT, b"value")
    resolver.want(PUT, heard)
    await asyncio.sleep(1)
    assert heard.answers == [(Verb.DONE, b"value")]


async def test_a_value_that_is_a_file_is_named_not_read(heard: Heard, ledger: Ledger) -> None:
    store = Counting(Directory(), ledger)
    resolver = Resolver(Io(store), random.Random(1), commit_s=1.0)
    resolver.want(PUT, heard)
    assert heard.answers == [(Verb.DONE, codec.local(f"/store/{layout.put_object(PUT)}"))]
    assert ledger == Ledger()


@pytest.mark.parametrize("verb", [Verb.DONE, Verb.FAILED])
async def test_a_large_result_is_read_where_its_word_says(
    resolver: Resolver, store: Counting, heard: Heard, verb: Verb
) -> None:
    store.put("t7/jobs/objects/large", envelope.seal(envelope.Kind.OBJECT, b"large"))
    stored = codec.stored("t7/jobs/objects/large", 5)
    write(store, BATCH_ID, Entry(1, (Word(0, verb, (stored,)),)))
    resolver.want(REF, heard)
    await asyncio.sleep(1)
    assert heard.answers == [(verb, b"large")]


async def test_a_value_that_is_gone_is_lost(resolver: Resolver, heard: Heard) -> None:
    resolver.want(PUT, heard)
    await asyncio.sleep(1)
    ((verb, payload),) = heard.answers
    error = load(payload)
    assert verb == Verb.FAILED
    assert isinstance(error, ObjectLostError)
    assert error.object_ref_hex == PUT.hex()


async def test_a_ref_whose_job_is_gone_is_lost(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    store.delete([layout.meta(BATCH_ID)])
    resolver.want(REF, heard)
    await asyncio.sleep(200)
    ((verb, payload),) = heard.answers
    assert verb == Verb.FAILED
    assert isinstance(load(payload), ObjectLostError)


async def test_a_ref_of_a_job_that_never_was_is_lost_at_the_first_look(
    resolver: Resolver, store: Counting, ledger: Ledger, heard: Heard
) -> None:
    store.delete([layout.meta(BATCH_ID)])
    before = ledger.as_dict()
    resolver.want(REF, heard)
    await asyncio.sleep(0.001)
    ((verb, payload),) = heard.answers
    assert verb == Verb.FAILED
    assert "it belongs to another cluster" in str(load(payload))
    # Its journal, the job's record, its journal once more, and both records that may say why.
    assert ledger.subtract(before) == Ledger(get=5)


async def test_whether_a_job_exists_is_asked_once(
    resolver: Resolver, ledger: Ledger, heard: Heard
) -> None:
    resolver.want(REF, heard)
    await asyncio.sleep(0.001)
    before = ledger.as_dict()
    resolver.want(ids.object_id(ids.batch_id(BATCH_ID[:21], 77), 0), heard)
    await asyncio.sleep(0.001)
    assert ledger.subtract(before) == Ledger(get=1)


async def test_as_long_as_its_job_is_there_a_ref_is_waited_for(
    resolver: Resolver, heard: Heard
) -> None:
    resolver.want(REF, heard)
    await asyncio.sleep(3600)
    assert heard.answers == []


async def test_a_word_of_a_job_that_is_gone_still_counts(
    resolver: Resolver, store: Counting, heard: Heard
) -> None:
    store.delete([layout.meta(BATCH_ID)])
    resolver.want(REF, heard)
    write(store, BATCH_ID, Entry(1, (done(0),)))
    await asyncio.sleep(200)
    assert heard.answers == [(Verb.DONE, b"value")]
