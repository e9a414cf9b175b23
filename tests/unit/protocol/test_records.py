from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.protocol.records import (
    Batch,
    Claim,
    Cluster,
    Duration,
    Entry,
    Heartbeat,
    Job,
    Parent,
    Shape,
    Task,
    Verb,
    Word,
    seal,
    unseal,
)
from cloudray.store import RecordError, nonce_of
from tests.unit.protocol.builders import BATCH_ID, batch_of

EXAMPLES = [
    Batch(
        BATCH_ID,
        (Shape("f" * 64, "task", 2, {"CPU": 5000}, -1, b"pickled", 3, {"A": "b"}),),
        (Task(0, b"a", b"", (b"b",), (b"c",), b"d"), Task(0)),
        1,
        Parent(BATCH_ID, 0, 1, 2),
    ),
    Claim("agent"),
    Claim(""),
    Entry(1, (Word(3, Verb.DONE, (b"value",), 2, (b"ref",)),), (Duration("f", 1, 2),)),
    Job(b"job.......", "3.11.7", "host", 42, 1.5, ("/a",), "/home", "space"),
    Heartbeat("agent", 7, "host", 42, "/socket", {"CPU": 20_000}, {"CPU": 0}, draining=True),
    Cluster(0.5, 2.0, 0.1, 60.0),
]
Record = Batch | Claim | Entry | Job | Heartbeat | Cluster


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert unseal(type(record), seal(record), "key") == record


WORDS = st.builds(
    Word,
    index=st.integers(0, 0xFFFF),
    verb=st.sampled_from(Verb),
    values=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
    attempt=st.integers(-1, 100),
    contains=st.lists(st.binary(min_size=29, max_size=29), max_size=2).map(tuple),
)


@given(st.integers(0, 1 << 31), st.lists(WORDS, max_size=5).map(tuple))
def test_an_entry_is_read_as_it_was_written(claim: int, words: tuple[Word, ...]) -> None:
    entry = Entry(claim, words)
    assert unseal(Entry, seal(entry), "key") == entry


def test_every_write_has_a_nonce_of_its_own() -> None:
    assert nonce_of(seal(Claim("a"))) != nonce_of(seal(Claim("a")))


def test_a_record_of_another_kind_is_refused_by_its_key() -> None:
    with pytest.raises(RecordError, match=r"queue/x[.]0 holds a record of kind 3, not BATCH"):
        unseal(Batch, seal(Claim("a")), "queue/x.0")


def test_a_record_that_is_cut_short_is_refused_by_its_key() -> None:
    with pytest.raises(RecordError, match=r"queue/x[.]1 does not hold a Claim"):
        unseal(Claim, seal(Claim("agent"))[:-2], "queue/x.1")


def test_a_batch_of_one_task_without_retries_runs_once_at_most() -> None:
    assert batch_of(1, max_retries=0).once


@pytest.mark.parametrize(("size", "max_retries"), [(1, 1), (1, -1), (2, 0)])
def test_any_other_batch_does_not(size: int, max_retries: int) -> None:
    assert not batch_of(size, max_retries=max_retries).once


def test_once_is_asked_of_the_shape_that_the_task_has() -> None:
    shapes = (Shape("f", "f", 1, {}, 3), Shape("f", "f", 1, {}, 0))
    assert Batch(BATCH_ID, shapes, (Task(1),)).once
    assert not Batch(BATCH_ID, shapes, (Task(0),)).once


def test_verbs_keep_their_numbers() -> None:
    assert {verb.name: int(verb) for verb in Verb} == {
        "STARTED": 0,
        "DONE": 1,
        "FAILED": 2,
        "CANCELLED": 3,
        "MOVED": 4,
    }
