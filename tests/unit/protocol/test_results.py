from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.protocol.records import Entry, Verb, Word
from cloudray.protocol.results import Results
from cloudray.store import Ledger, Store, drive
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    PREFIX,
    cancelled,
    done,
    entries_of,
    failed,
    moved,
    started,
    write,
)

REF = ids.object_id(BATCH_ID, 1)
THIRD_ID = ids.batch_id(PREFIX, 2)


@pytest.fixture
def results() -> Results:
    return Results()


def test_nothing_is_known_before_anything_is_read(results: Results) -> None:
    assert results.find(REF) is None
    assert results.waiting_on(REF) == (BATCH_ID, 1)


@pytest.mark.parametrize("word", [done(1), failed(1), cancelled(1)])
def test_a_final_word_is_the_answer(results: Results, store: Store, word: Word) -> None:
    write(store, BATCH_ID, Entry(1, (word,)))
    assert drive(store, results.follow(REF)) == word
    assert results.find(REF) == word


def test_a_task_that_only_started_has_no_answer(results: Results, store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (started(1), done(0))))
    assert drive(store, results.follow(REF)) is None


def test_all_return_values_of_a_task_share_its_word(results: Results, store: Store) -> None:
    word = Word(1, Verb.DONE, (b"first", b"second"))
    write(store, BATCH_ID, Entry(1, (word,)))
    assert drive(store, results.follow(ids.object_id(BATCH_ID, 1, 1))) == word


def test_a_moved_is_followed_to_where_it_points(results: Results, store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (moved(1, OTHER_ID, 0),)))
    write(store, OTHER_ID, Entry(1, (moved(0, THIRD_ID, 5),)))
    write(store, THIRD_ID, Entry(1, (done(5),)))
    assert drive(store, results.follow(REF)) == done(5)
    assert results.find(REF) == done(5)


def test_a_moved_task_waits_where_it_went(results: Results, store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (moved(1, OTHER_ID, 0),)))
    assert drive(store, results.follow(REF)) is None
    assert results.find(REF) is None
    assert results.waiting_on(REF) == (OTHER_ID, 0)


def test_looking_again_reads_only_what_is_new(
    results: Results, store: Store, ledger: Ledger
) -> None:
    write(store, BATCH_ID, Entry(1, (moved(1, OTHER_ID, 0),)))
    drive(store, results.follow(REF))
    before = ledger.as_dict()
    drive(store, results.follow(REF))
    assert ledger.subtract(before) == Ledger(get=1)


def test_one_reading_answers_for_all_tasks_of_a_batch(
    results: Results, store: Store, ledger: Ledger
) -> None:
    write(store, BATCH_ID, Entry(1, (done(0), done(1))))
    drive(store, results.follow(REF))
    before = ledger.as_dict()
    assert results.find(ids.object_id(BATCH_ID, 0)) == done(0)
    assert ledger.subtract(before) == Ledger()


# -- cancelling ----------------------------------------------------------------------------


def test_a_cancel_that_comes_first_is_the_final_word(results: Results, store: Store) -> None:
    assert drive(store, results.cancel(REF, force=False)) == cancelled(1)
    assert entries_of(store, BATCH_ID) == [Entry(0, (cancelled(1),))]


def test_a_forced_cancel_says_so(results: Results, store: Store) -> None:
    word = drive(store, results.cancel(REF, force=True))
    assert word == Word(1, Verb.CANCELLED, (b"force",))


def test_a_cancel_that_comes_too_late_returns_what_stands(results: Results, store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)))
    assert drive(store, results.cancel(REF, force=False)) == done(1)
    assert len(entries_of(store, BATCH_ID)) == 2


def test_a_cancel_of_a_running_task_stands_before_its_result(
    results: Results, store: Store
) -> None:
    write(store, BATCH_ID, Entry(1, (started(1),)))
    assert drive(store, results.cancel(REF, force=False)) == cancelled(1)


def test_a_cancel_follows_a_task_that_moved(results: Results, store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (moved(1, OTHER_ID, 4),)))
    assert drive(store, results.cancel(REF, force=False)) == cancelled(4)
    assert entries_of(store, OTHER_ID) == [Entry(0, (cancelled(4),))]
    assert drive(store, Results().follow(REF)) == cancelled(4)


def test_a_second_cancel_says_nothing_again(results: Results, store: Store) -> None:
    drive(store, results.cancel(REF, force=False))
    assert drive(store, Results().cancel(REF, force=True)) == cancelled(1)
    assert len(entries_of(store, BATCH_ID)) == 1
