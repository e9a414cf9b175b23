from __future__ import annotations

import gc

import pytest

from cloudray import ids
from cloudray.driver.following import Following, first_found
from cloudray.driver.lifetimes import Lifetimes
from cloudray.exceptions import ObjectLostError
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.records import Batch, Duration, Ending, Entry, Verb, seal
from cloudray.store import Counting, Ledger, MemoryStore, Reliable, drive, envelope, layout
from cloudray.store.layout import QueueName, claim_of
from cloudray.values import codec
from cloudray.values.outcomes import load
from tests.unit.agent.bench import JOB
from tests.unit.driver.gated import GatedStore
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    batch_of,
    cancelled,
    done,
    entries_of,
    moved,
    name_of,
    write,
)

BATCH = batch_of(2)
REF = ids.object_id(BATCH_ID, 0)
SECOND = ids.object_id(BATCH_ID, 1)
#: A batch of somebody else's job.
STRANGE_ID = ids.batch_id(ids.batch_prefix(7, b"strange...", b"submitter."), 0)
STRANGE = ids.object_id(STRANGE_ID, 0)
FINISHED = Entry(1, (done(0), done(1)), (Duration("f", 2, 3000),))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def store(ledger: Ledger) -> Reliable:
    return Reliable(Counting(MemoryStore(), ledger))


@pytest.fixture
def book() -> DurationBook:
    return DurationBook()


@pytest.fixture
def following(store: Reliable, book: DurationBook) -> Following:
    return Following(store, JOB.id, book)


def submit(following: Following, batch: Batch = BATCH) -> object:
    """Submit a batch; returns what its refs keep alive."""
    anchor = following.anchor(batch.id)
    following.submitted(name_of(batch), batch)
    return anchor


# -- finding words -------------------------------------------------------------------------


def test_a_value_that_was_put_is_there(following: Following) -> None:
    identifier = ids.object_id(BATCH_ID, ids.PUT_INDEX)
    word = following.find(identifier)
    assert word is not None
    assert codec.stored_key(word.values[0]) == layout.put_object(identifier)


def test_nothing_is_known_of_a_batch_before_anything_is_read(following: Following) -> None:
    anchor = submit(following)
    assert following.find(REF) is None
    del anchor


def test_what_is_waited_for_is_looked_at(following: Following, store: Reliable) -> None:
    following.follow(REF)
    assert following.restless
    write(store, BATCH_ID, FINISHED)
    assert following.look_around()
    assert following.find(REF) == done(0)
    assert not following.restless


def test_a_look_without_news_says_so(following: Following) -> None:
    following.follow(REF)
    assert not following.look_around()


def test_a_batch_of_ours_is_looked_at_until_it_is_complete(
    following: Following, store: Reliable, ledger: Ledger
) -> None:
    anchor = submit(following)
    write(store, BATCH_ID, Entry(1, (done(0),)))
    following.look_around()
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)))
    following.look_around()
    before = ledger.as_dict()
    following.look_around()
    assert ledger.subtract(before) == Ledger()
    assert following.find(SECOND) == done(1)
    del anchor


def test_looking_takes_turns_when_there_is_much_to_look_at(
    following: Following, ledger: Ledger
) -> None:
    for number in range(100):
        following.follow(ids.object_id(BATCH_ID[:-4] + number.to_bytes(4, "big"), 0))
    following.look_around()
    first = ledger.as_dict()["get"]
    assert first < 100
    write_last = BATCH_ID[:-4] + (99).to_bytes(4, "big")
    following._store.put(f"{layout.journal(write_last)}0", seal(FINISHED))
    following.look_around()
    assert following.find(ids.object_id(write_last, 0)) == done(0)


def test_a_task_that_went_elsewhere_is_followed(following: Following, store: Reliable) -> None:
    anchor = submit(following)
    write(store, BATCH_ID, Entry(1, (done(0), moved(1, OTHER_ID, 5))))
    write(store, OTHER_ID, Entry(1, (done(5, b"there"),)))
    following.look_around()
    assert following.find(SECOND) is None
    assert following.restless
    following.look_around()
    assert following.find(SECOND) == done(5, b"there")
    del anchor


# -- hints ---------------------------------------------------------------------------------


def test_a_task_that_was_moved_twice_is_found_while_the_rest_of_its_batch_runs(
    following: Following, store: Reliable
) -> None:
    anchor = submit(following)
    third = STRANGE_ID[:-1] + b"\x07"
    write(store, BATCH_ID, Entry(1, (moved(1, OTHER_ID, 0),)))
    write(store, OTHER_ID, Entry(1, (moved(0, third, 0),)))
    write(store, third, Entry(1, (done(0, b"there"),)))
    for _ in range(3):
        following.look_around()
    word = following.find(SECOND)
    assert word is not None
    assert word.values == (b"there",)
    del anchor


def test_a_batch_that_tasks_were_moved_to_is_not_looked_at_once_they_are_decided(
    following: Following, store: Reliable, ledger: Ledger
) -> None:
    anchor = submit(following)
    write(store, BATCH_ID, Entry(1, (moved(0, OTHER_ID, 0), moved(1, OTHER_ID, 1))))
    write(store, OTHER_ID, Entry(1, (done(0), done(1))))
    for _ in range(2):
        following.look_around()
    assert following.find(SECOND) is not None
    before = ledger.as_dict()
    following.look_around()
    assert ledger.subtract(before) == Ledger()
    del anchor


def test_an_entry_that_comes_with_the_hint_is_not_read(
    following: Following, ledger: Ledger
) -> None:
    anchor = submit(following)
    assert following.published(BATCH_ID, 1, FINISHED)
    assert following.find(REF) == done(0)
    assert ledger == Ledger()
    del anchor


def test_entries_that_were_missed_are_read(
    following: Following, store: Reliable, ledger: Ledger
) -> None:
    anchor = submit(following)
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)))
    before = ledger.as_dict()
    assert following.published(BATCH_ID, 2, Entry(1, (done(1),)))
    assert (following.find(REF), following.find(SECOND)) == (done(0), done(1))
    assert ledger.subtract(before) == Ledger(get=2)
    del anchor


def test_an_entry_that_is_known_is_no_news(following: Following) -> None:
    anchor = submit(following)
    following.published(BATCH_ID, 1, FINISHED)
    assert not following.published(BATCH_ID, 1, FINISHED)
    del anchor


def test_a_hint_about_a_batch_that_nobody_follows_is_nothing(
    following: Following, ledger: Ledger
) -> None:
    assert not following.published(BATCH_ID, 1, FINISHED)
    assert not following.published(BATCH_ID, 1, None)
    assert ledger == Ledger()


def test_how_long_calls_took_is_learned(following: Following, book: DurationBook) -> None:
    anchor = submit(following)
    following.published(BATCH_ID, 1, FINISHED)
    assert book.mean_us("f") == 1500.0
    del anchor


# -- forgetting ----------------------------------------------------------------------------


def test_a_batch_is_forgotten_when_its_last_ref_goes(following: Following, ledger: Ledger) -> None:
    anchor = submit(following)
    following.drop_unused()
    assert BATCH_ID in following.results.journals
    del anchor
    gc.collect()
    assert following.has_unused
    following.drop_unused()
    assert following.results.journals == {}
    following.look_around()
    assert ledger == Ledger()


def test_a_batch_that_is_wanted_again_meanwhile_is_kept(following: Following) -> None:
    first = submit(following)
    del first
    gc.collect()
    second = following.anchor(BATCH_ID)
    following.drop_unused()
    assert BATCH_ID in following.results.journals
    del second


def test_where_its_tasks_went_is_forgotten_with_it(following: Following, store: Reliable) -> None:
    anchor = submit(following)
    write(store, BATCH_ID, Entry(1, (moved(0, OTHER_ID, 0), moved(1, OTHER_ID, 1))))
    following.look_around()
    following.look_around()
    assert OTHER_ID in following.results.journals
    del anchor
    gc.collect()
    following.drop_unused()
    assert following.results.journals == {}


def test_a_batch_to_which_no_ref_is_left_is_not_followed_at_all(following: Following) -> None:
    following.submitted(QueueName("py311-cpu1-m0", 5, BATCH_ID, 2, 0), BATCH)
    assert following.results.journals == {}


# -- cancelling ----------------------------------------------------------------------------


def test_a_cancellation_is_said_in_the_journal(following: Following, store: Reliable) -> None:
    anchor = submit(following)
    assert drive(store, following.cancel(REF, force=False)) == BATCH_ID
    assert following.find(REF) == cancelled(0)
    assert entries_of(store, BATCH_ID) == [Entry(0, (cancelled(0),))]
    del anchor


def test_what_was_cancelled_as_a_whole_leaves_a_queue_far_away(book: DurationBook) -> None:
    store = Reliable(GatedStore())
    following = Following(store, JOB.id, book)
    anchor = submit(following)
    key = claim_of(name_of(BATCH).stem, 0)
    store.put(key, seal(BATCH))
    drive(store, following.cancel(REF, force=False))
    assert store.get(key) is not None
    drive(store, following.cancel(SECOND, force=False))
    assert store.get(key) is None
    del anchor


def test_a_task_that_went_elsewhere_is_cancelled_there(
    following: Following, store: Reliable
) -> None:
    write(store, BATCH_ID, Entry(1, (moved(0, OTHER_ID, 5),)))
    assert drive(store, following.cancel(REF, force=False)) == OTHER_ID
    word = following.find(REF)
    assert word is not None
    assert word.verb is Verb.CANCELLED


def test_what_is_done_cannot_be_cancelled(following: Following, store: Reliable) -> None:
    write(store, BATCH_ID, FINISHED)
    drive(store, following.cancel(REF, force=True))
    assert following.find(REF) == done(0)


# -- jobs that are gone --------------------------------------------------------------------


def test_a_ref_of_a_job_that_is_gone_is_lost_at_the_first_look(following: Following) -> None:
    following.follow(STRANGE)
    assert following.look_around()
    word = following.find(STRANGE)
    assert word is not None
    assert isinstance(load(word.values[0]), ObjectLostError)


def test_a_ref_of_another_job_that_is_there_is_waited_for(
    following: Following, store: Reliable
) -> None:
    store.put(layout.meta(STRANGE_ID), seal(JOB))
    following.follow(STRANGE)
    for _ in range(100):
        assert not following.look_around()
    assert following.find(STRANGE) is None


def test_a_job_that_goes_while_it_is_waited_for_is_noticed(
    following: Following, store: Reliable
) -> None:
    store.put(layout.meta(STRANGE_ID), seal(JOB))
    following.follow(STRANGE)
    following.look_around()
    store.delete([layout.meta(STRANGE_ID)])
    for _ in range(50):
        following.look_around()
    assert following.find(STRANGE) is not None


def test_that_our_own_job_was_deleted_is_noticed_too(following: Following, store: Reliable) -> None:
    store.put(layout.meta(BATCH_ID), seal(JOB))
    following.follow(REF)
    for _ in range(100):
        following.look_around()
    assert following.find(REF) is None
    store.put(layout.ending(BATCH_ID), seal(Ending(86_400.0, "its job was deleted")))
    store.delete([layout.meta(BATCH_ID)])
    for _ in range(50):
        following.look_around()
    word = following.find(REF)
    assert word is not None
    assert "its job was deleted on 1970-01-02" in str(load(word.values[0]))


def test_in_a_cluster_of_its_own_a_driver_never_doubts_its_job(store: Reliable) -> None:
    following = Following(store, JOB.id, DurationBook(), Lifetimes())
    following.follow(REF)
    for _ in range(100):
        following.look_around()
    assert following.find(REF) is None


# -- the first of many ---------------------------------------------------------------------


@pytest.mark.parametrize(("count", "positions"), [(1, [1]), (2, [1, 3]), (9, [1, 3])])
def test_the_first_that_are_there_are_found(count: int, positions: list[int]) -> None:
    there = {b"b": 1, b"d": 1}
    assert first_found([b"a", b"b", b"c", b"d"], count, there.get) == positions


def test_an_object_that_was_put_is_found_without_reading_it(
    following: Following, store: Reliable, ledger: Ledger
) -> None:
    identifier = ids.object_id(BATCH_ID, ids.PUT_INDEX)
    store.put(layout.put_object(identifier), envelope.seal(envelope.Kind.OBJECT, b"value"))
    before = ledger.as_dict()
    assert first_found([identifier], 1, following.find) == [0]
    assert ledger.subtract(before) == Ledger()


def test_only_the_last_batches_that_ended_are_remembered(
    following: Following, store: Reliable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudray.driver.following._FINISHED", 2)
    for number in range(5):
        batch = ids.batch_id(BATCH_ID[:21], number)
        following.follow(ids.object_id(batch, 0))
        write(store, batch, Entry(1, (done(0),)))
        following.look_around()
    assert list(following.finished) == [ids.batch_id(BATCH_ID[:21], n) for n in (3, 4)]
