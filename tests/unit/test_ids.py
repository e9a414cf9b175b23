from __future__ import annotations

import binascii
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids

TEN = st.binary(min_size=10, max_size=10)
DAYS = st.integers(0, 255)
NUMBERS = st.integers(0, 2**32 - 1)
INDEXES = st.integers(0, 2**16 - 1)


@given(TEN)
def test_text_is_sixteen_lowercase_characters_that_come_back_as_the_bytes(
    identifier: bytes,
) -> None:
    text = ids.to_text(identifier)
    assert re.fullmatch("[0-9a-v]{16}", text)
    assert ids.from_text(text) == identifier


@given(TEN, TEN)
def test_text_sorts_as_the_bytes_do(one: bytes, other: bytes) -> None:
    assert (ids.to_text(one) < ids.to_text(other)) == (one < other)


@pytest.mark.parametrize("text", ["z" * 16, "0" * 15, "key"])
def test_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(binascii.Error):
        ids.from_text(text)


@given(DAYS, TEN, TEN, NUMBERS, INDEXES, INDEXES)
def test_an_object_id_says_where_it_belongs(
    days: int, job: bytes, submitter: bytes, number: int, index: int, return_index: int
) -> None:
    batch = ids.batch_id(ids.batch_prefix(days, job, submitter), number)
    identifier = ids.object_id(batch, index, return_index)
    assert (len(batch), len(identifier)) == (ids.BATCH_ID_BYTES, ids.OBJECT_ID_BYTES)
    assert identifier.startswith(batch)
    assert ids.days_of(identifier) == days
    assert ids.job_of(identifier) == job
    assert ids.submitter_of(identifier) == submitter
    assert ids.number_of(identifier) == number
    assert ids.index_of(identifier) == index
    assert ids.return_of(identifier) == return_index


@given(NUMBERS, NUMBERS)
def test_batches_of_one_submitter_sort_by_their_numbers(one: int, other: int) -> None:
    prefix = ids.batch_prefix(7, bytes(10), bytes(10))
    assert (ids.batch_id(prefix, one) < ids.batch_id(prefix, other)) == (one < other)


def test_jobs_sort_by_the_time_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for now_s in (1.0, 1.5, 1_700_000_000.0, 4_000_000_000.0):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
        made.append(ids.new_timed_id())
    assert made == sorted(made)
    assert {len(identifier) for identifier in made} == {ids.ID_BYTES}


def test_ids_made_at_one_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert len({ids.new_timed_id() for _ in range(50)}) == 50


def test_submitters_differ() -> None:
    assert len({ids.new_id() for _ in range(50)}) == 50


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        ids.batch_id(ids.batch_prefix(7, bytes(10), bytes(10)), 2**32)
