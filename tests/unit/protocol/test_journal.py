from __future__ import annotations

from collections.abc import Generator
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudray.protocol import journal as journals
from cloudray.protocol.journal import READ_AHEAD, Journal
from cloudray.protocol.records import Duration, Entry, Verb, Word, seal
from cloudray.store import Ledger, MemoryStore, RecordError, Reliable, Store, drive
from cloudray.store.procedures import Procedure, Together
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    cancelled,
    done,
    entries_of,
    failed,
    fold,
    moved,
    started,
    write,
)

FINAL = st.sampled_from([Verb.DONE, Verb.FAILED, Verb.CANCELLED, Verb.MOVED])
WORDS = st.builds(
    Word, index=st.integers(0, 3), verb=st.sampled_from(Verb), attempt=st.integers(0, 2)
)
ENTRIES = st.lists(
    st.builds(Entry, claim=st.integers(0, 3), words=st.lists(WORDS, max_size=4).map(tuple)),
    max_size=6,
)

# -- the fold ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [done(0), failed(0), cancelled(0), moved(0, OTHER_ID, 0)])
@pytest.mark.parametrize("second", [done(0, b"2"), failed(0), cancelled(0), moved(0, OTHER_ID, 1)])
def test_the_first_deciding_word_wins(first: Word, second: Word) -> None:
    journal = fold(BATCH_ID, Entry(1, (first,)), Entry(2, (second,)))
    assert journal.decided == {0: first}
    assert journal.claims == {0: 1}


def test_the_first_deciding_word_wins_within_an_entry() -> None:
    assert fold(BATCH_ID, Entry(1, (done(0, b"1"), done(0, b"2")))).decided == {0: done(0, b"1")}


def test_started_decides_nothing() -> None:
    journal = fold(BATCH_ID, Entry(1, (started(0, 0),)), Entry(2, (started(0, 1),)))
    assert journal.decided == {}
    assert journal.started == {0: [(1, 0), (2, 1)]}


def test_started_after_the_deciding_word_is_void() -> None:
    assert fold(BATCH_ID, Entry(1, (done(0),)), Entry(2, (started(0),))).started == {}


def test_applying_an_entry_tells_what_it_decided() -> None:
    journal = fold(BATCH_ID, Entry(1, (done(0),)))
    assert journal.apply(Entry(1, (done(0), started(1), failed(2), cancelled(3)))) == [2, 3]


def test_a_journal_is_complete_when_every_task_is_final_or_moved() -> None:
    journal = fold(BATCH_ID, Entry(1, (done(0), failed(1))), size=3)
    assert not journal.complete
    journal.apply(Entry(1, (moved(2, OTHER_ID, 0),)))
    assert journal.complete


def test_a_journal_of_unknown_size_is_never_complete() -> None:
    assert not fold(BATCH_ID, Entry(1, (done(0),))).complete


def test_durations_are_kept_for_whoever_sizes_batches() -> None:
    duration = Duration("f", 2, 300)
    assert fold(BATCH_ID, Entry(1, (done(0),), (duration,))).measured == [duration]


@given(ENTRIES, st.booleans())
def test_a_task_that_is_decided_stays_so(entries: list[Entry], once: bool) -> None:
    journal = Journal(BATCH_ID, once=once)
    for entry in entries:
        before = dict(journal.decided)
        journal.apply(entry)
        assert {index: journal.decided[index] for index in before} == before


@given(ENTRIES, st.integers(0, 6), st.booleans())
def test_a_reader_that_goes_on_from_a_prefix_agrees_with_one_that_starts_anew(
    entries: list[Entry], cut: int, once: bool
) -> None:
    store = MemoryStore()
    write(store, BATCH_ID, *entries[:cut])
    early = Journal(BATCH_ID, once=once)
    drive(store, journals.catch_up(early))
    write(store, BATCH_ID, *entries)
    late = Journal(BATCH_ID, once=once)
    for reader in early, late:
        drive(store, journals.catch_up(reader))
    assert early.next == late.next == len(entries)
    assert (early.decided, early.claims, early.started) == (
        late.decided,
        late.claims,
        late.started,
    )


@example([], [started(0), moved(0, OTHER_ID, 0), done(0)], True)
@given(ENTRIES, st.lists(WORDS), st.booleans())
def test_what_is_sifted_out_would_have_changed_nothing(
    entries: list[Entry], words: list[Word], once: bool
) -> None:
    whole = fold(BATCH_ID, *entries, once=once)
    kept = whole.sift(words)
    sifted = fold(BATCH_ID, *entries, once=once)
    assert whole.apply(Entry(9, tuple(words))) == sifted.apply(Entry(9, kept))
    assert whole.decided == sifted.decided
    assert whole.started == sifted.started


# -- a task with max_retries=0 -------------------------------------------------------------


def test_started_stands_once_where_it_is_the_permission_to_run() -> None:
    entries = Entry(1, (started(0),)), Entry(2, (started(0),))
    assert fold(BATCH_ID, *entries, once=True).started == {0: [(1, 0)]}


def test_a_task_that_was_permitted_to_run_is_not_moved() -> None:
    entries = Entry(1, (started(0),)), Entry(2, (moved(0, OTHER_ID, 0),))
    assert fold(BATCH_ID, *entries, once=True).decided == {}


@pytest.mark.parametrize("word", [done(0), failed(0), cancelled(0)])
def test_a_task_that_was_permitted_to_run_gets_a_final_word(word: Word) -> None:
    entries = Entry(1, (started(0),)), Entry(2, (word,))
    assert fold(BATCH_ID, *entries, once=True).decided == {0: word}


def test_a_batch_may_turn_out_to_run_once_at_most() -> None:
    journal = fold(BATCH_ID, Entry(1, (started(0),)))
    journal.set_once()
    assert journal.sift([started(0), moved(0, OTHER_ID, 0)]) == ()


# -- reading -------------------------------------------------------------------------------


def test_reading_an_absent_journal_costs_one_request(store: Store, ledger: Ledger) -> None:
    assert drive(store, journals.catch_up(Journal(BATCH_ID))) == []
    assert ledger == Ledger(get=1)


def test_reading_returns_what_was_decided_since(store: Store) -> None:
    journal = Journal(BATCH_ID)
    write(store, BATCH_ID, Entry(1, (done(0),)))
    drive(store, journals.catch_up(journal))
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(2), done(1))), Entry(2, (done(2),)))
    assert drive(store, journals.catch_up(journal)) == [2, 1]


def test_reading_stops_at_the_first_free_number(store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)))
    store.put(journals.key(BATCH_ID, 2), seal(Entry(1, (done(1),))))
    journal = Journal(BATCH_ID)
    assert drive(store, journals.catch_up(journal)) == [0]
    assert journal.next == 1


def test_a_journal_that_is_complete_is_not_read_further(store: Store, ledger: Ledger) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)))
    before = ledger.as_dict()
    drive(store, journals.catch_up(Journal(BATCH_ID, 1)))
    assert ledger.subtract(before) == Ledger(get=1)


def test_a_long_journal_is_read_many_entries_at_a_time(store: Store) -> None:
    write(store, BATCH_ID, *[Entry(1, (done(index),)) for index in range(40)])
    journal = Journal(BATCH_ID)
    trips = list(_halting(store, journals.catch_up(journal)))
    assert journal.next == 40
    assert len(trips) <= 4 + 40 // READ_AHEAD


def test_a_journal_with_one_new_entry_is_read_with_few_requests(
    store: Store, ledger: Ledger
) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)))
    before = ledger.as_dict()
    drive(store, journals.catch_up(Journal(BATCH_ID)))
    assert ledger.subtract(before) == Ledger(get=3)


def test_a_reader_that_knows_how_far_a_journal_goes_reads_just_that(
    store: Store, ledger: Ledger
) -> None:
    write(store, BATCH_ID, *[Entry(1, (done(index),)) for index in range(5)])
    journal = Journal(BATCH_ID)
    before = ledger.as_dict()
    assert drive(store, journals.catch_up(journal, 3)) == [0, 1, 2]
    assert ledger.subtract(before) == Ledger(get=3)
    assert drive(store, journals.catch_up(journal, 4)) == [3]
    assert ledger.subtract(before) == Ledger(get=4)


def test_a_reader_that_knows_nothing_new_looks_all_the_same(store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)))
    journal = Journal(BATCH_ID)
    drive(store, journals.catch_up(journal, 1))
    assert drive(store, journals.catch_up(journal, 1)) == [1]


def test_reading_something_else_names_the_key(store: Store) -> None:
    store.put(
        journals.key(BATCH_ID, 0), b"something else entirely, and long enough for a header.." * 2
    )
    with pytest.raises(RecordError, match=r"results/.*/00000000[.]0"):
        drive(store, journals.catch_up(Journal(BATCH_ID)))


# -- appending -----------------------------------------------------------------------------


def test_appending_to_an_empty_journal_costs_one_request(store: Store, ledger: Ledger) -> None:
    journal = Journal(BATCH_ID)
    words = [done(0), failed(1)]
    assert drive(store, journals.append(journal, words, claim=3)) == [0, 1]
    assert ledger == Ledger(put=1)
    assert entries_of(store, BATCH_ID) == [Entry(3, (done(0), failed(1)))]


def test_appending_carries_durations(store: Store) -> None:
    durations = (Duration("f", 1, 20),)
    drive(store, journals.append(Journal(BATCH_ID), [done(0)], claim=1, durations=durations))
    assert entries_of(store, BATCH_ID)[0].durations == durations


def test_appending_nothing_costs_nothing(store: Store, ledger: Ledger) -> None:
    journal = fold(BATCH_ID, Entry(1, (done(0),)))
    assert drive(store, journals.append(journal, [done(0, b"late")], claim=2)) == []
    assert ledger == Ledger()


def test_who_loses_a_number_learns_from_the_winner_and_tries_the_next(store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (done(0, b"first"),)))
    journal = Journal(BATCH_ID)
    fresh = drive(store, journals.append(journal, [done(0), done(1)], claim=2))
    assert fresh == [0, 1]
    assert journal.decided == {0: done(0, b"first"), 1: done(1)}
    assert entries_of(store, BATCH_ID)[1] == Entry(2, (done(1),))


def test_what_a_winner_made_void_is_not_said(store: Store) -> None:
    write(store, BATCH_ID, Entry(0, (cancelled(0),)))
    journal = Journal(BATCH_ID)
    assert drive(store, journals.append(journal, [done(0)], claim=1)) == [0]
    assert journal.decided == {0: cancelled(0)}
    assert len(entries_of(store, BATCH_ID)) == 1


@given(st.lists(st.integers(0, 1), min_size=12, max_size=12))
def test_strangers_that_append_at_once_agree(turns: list[int]) -> None:
    store = Reliable(MemoryStore())
    own = [Journal(BATCH_ID), Journal(BATCH_ID)]
    words = [[done(0, b"a"), done(1, b"a")], [done(1, b"b"), done(2, b"b")]]
    interleave(
        store,
        [journals.append(own[n], words[n], claim=n + 1) for n in (0, 1)],
        turns,
    )
    for journal in own:
        drive(store, journals.catch_up(journal))
    assert own[0].decided == own[1].decided
    assert own[0].decided.keys() == {0, 1, 2}


@pytest.mark.parametrize("turns", list(product((0, 1, 2), repeat=5)))
def test_procedures_of_one_process_share_a_journal(turns: tuple[int, ...]) -> None:
    store = Reliable(MemoryStore())
    write(store, BATCH_ID, Entry(9, (done(3, b"rival"),)))
    shared = Journal(BATCH_ID, 4)
    interleave(
        store,
        [
            journals.append(shared, [started(0), done(1)], claim=1),
            journals.append(shared, [done(0), done(2), done(3)], claim=1),
            journals.catch_up(shared),
        ],
        turns,
    )
    entries = entries_of(store, BATCH_ID)
    assert shared.next == len(entries), "an entry was folded in twice"
    anew = fold(BATCH_ID, *entries)
    assert shared.decided == anew.decided
    assert shared.started == anew.started
    assert anew.decided.keys() == {0, 1, 2, 3}


def interleave(
    store: Store, procedures: list[Procedure[Any]], turns: list[int] | tuple[int, ...]
) -> None:
    """Run procedures at once: each turn lets one of them perform one operation.

    The answer is heard at that procedure's next turn, so others may act in between.
    """
    runs = [_halting(store, procedure) for procedure in procedures]
    for turn in turns:
        next(runs[turn], None)
    for run in runs:
        for _ in run:
            pass


def _halting(store: Store, procedure: Procedure[Any]) -> Generator[None, None, None]:
    answer: Any = None
    try:
        while True:
            op = procedure.send(answer)
            assert not isinstance(op, Together)
            answer = store.perform(op)
            yield
    except StopIteration:
        return
