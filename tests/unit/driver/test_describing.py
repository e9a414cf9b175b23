from __future__ import annotations

import gc
from typing import Any

import pytest

from cloudray import ids
from cloudray.driver.describing import Counts, count, describe
from cloudray.driver.following import Following
from cloudray.exceptions import ObjectLostError, RayTaskError
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.records import Entry, Verb, Word
from cloudray.store import Counting, Ledger, MemoryStore
from cloudray.values import codec
from cloudray.values.outcomes import error_payload
from tests.unit.agent.bench import JOB
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    batch_of,
    cancelled,
    done,
    moved,
    name_of,
    started,
)

REF = ids.object_id(BATCH_ID, 0)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def following(ledger: Ledger) -> Following:
    return Following(Counting(MemoryStore(), ledger), JOB.id, DurationBook())


def submit(following: Following, size: int = 2, *, number: int = 0) -> Any:
    """Submit a batch; returns what its refs keep alive."""
    batch = batch_of(size, number=number)
    anchor = following.anchor(batch.id)
    following.submitted(name_of(batch), batch)
    return anchor


def say(following: Following, *words: Word, batch: bytes = BATCH_ID) -> None:
    following.results.journal(batch).apply(Entry(1, words))


def failed(error: BaseException) -> Word:
    return Word(0, Verb.FAILED, (error_payload(error),))


class Untouchable(Exception):
    """An exception that nobody can unpickle."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (started(0), "running"),
        (done(0, b"12345"), "done, 5 B"),
        (done(0, codec.stored("key", 1_234_567)), "done, 1.2 MB"),
        (cancelled(0), "cancelled"),
        (failed(RayTaskError("f", "", ValueError("no"))), "failed: ValueError"),
        (failed(ObjectLostError("0a")), "failed: ObjectLostError"),
        (Word(0, Verb.FAILED, (codec.stored("key", 2_000_000),)), "failed"),
        (Word(0, Verb.FAILED, (b"\x80garbage",)), "failed"),
        (started(1), "pending"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_journal_says_is_what_is_known(
    following: Following, ledger: Ledger, word: Word, text: str
) -> None:
    _anchor = submit(following)
    say(following, word)
    assert describe(following.results, REF) == text
    assert ledger == Ledger()


def test_each_value_of_a_task_has_its_size(following: Following) -> None:
    _anchor = submit(following)
    say(following, Word(0, Verb.DONE, (b"1", b"22")))
    assert describe(following.results, ids.object_id(BATCH_ID, 0, 1)) == "done, 2 B"


def test_a_value_that_was_put_is_stored(following: Following) -> None:
    identifier = ids.object_id(BATCH_ID, ids.PUT_INDEX)
    assert describe(following.results, identifier) == "stored"


def test_looking_at_a_value_follows_nothing(following: Following) -> None:
    assert describe(following.results, REF) == "pending"
    assert following.results.journals == {}


def test_a_task_that_was_given_away_is_looked_for_there(following: Following) -> None:
    _anchor = submit(following)
    say(following, moved(0, OTHER_ID, 7))
    assert describe(following.results, REF) == "pending"
    say(following, started(7), batch=OTHER_ID)
    assert describe(following.results, REF) == "running"
    say(following, done(7), batch=OTHER_ID)
    assert describe(following.results, REF) == "done, 5 B"


# -- counting ----------------------------------------------------------------------------------


def test_tasks_are_done_running_or_queued(following: Following) -> None:
    _anchor = submit(following, 6)
    say(following, started(0), started(1), done(1), done(2), cancelled(3))
    counts = count(following)
    assert (counts.done, counts.running, counts.queued, counts.pending) == (3, 1, 2, 3)
    assert counts.examples == tuple(ids.object_id(BATCH_ID, index) for index in (0, 4, 5))


def test_what_was_given_away_counts_where_it_was_submitted(following: Following) -> None:
    _anchor = submit(following, 2)
    say(following, moved(0, OTHER_ID, 1), moved(1, OTHER_ID, 2))
    say(following, started(1), done(2), batch=OTHER_ID)
    counts = count(following)
    assert (counts.done, counts.running, counts.queued) == (1, 1, 0)


def test_what_no_ref_leads_to_does_not_count(following: Following) -> None:
    kept = submit(following, 2)
    dropped = submit(following, 3, number=1)
    assert count(following).queued == 5
    del dropped
    gc.collect()
    following.drop_unused()
    assert count(following).queued == 2
    kept.gone.add(REF)
    assert count(following).queued == 1
    kept.again.add(REF)
    assert count(following).queued == 2


def test_without_tasks_nothing_is_pending() -> None:
    assert Counts().pending == 0


# -- quantities ----------------------------------------------------------------------------------
