from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids
from cloudray.protocol import claims, sharing
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Entry, Parent, Shape, Task, Verb
from cloudray.protocol.results import Results
from cloudray.store import Ledger, Store, drive
from cloudray.store.layout import claim_of
from tests.unit.protocol.builders import (
    BATCH_ID,
    OTHER_ID,
    PREFIX,
    batch_of,
    cancelled,
    done,
    entries_of,
    moved,
    name_of,
    started,
    write,
)

BATCH = batch_of(3)
PART = sharing.part_of(BATCH, [1, 2], OTHER_ID)


@given(st.binary(min_size=25, max_size=25), st.integers(0, 0xFFFF))
def test_an_address_names_batch_and_index(batch: bytes, index: int) -> None:
    assert sharing.at(sharing.address(batch, index)) == (batch, index)


@pytest.mark.parametrize(
    ("ready", "share"), [([], []), ([4], [4]), ([4, 5], [5]), ([1, 4, 5], [4, 5])]
)
def test_the_later_half_is_given_away_rounded_up(ready: list[int], share: list[int]) -> None:
    assert sharing.share_of(ready) == share


# -- a part of a batch ---------------------------------------------------------------------


def test_each_task_of_a_part_names_the_place_where_it_stood() -> None:
    assert [sharing.at(task.origin) for task in PART.tasks] == [(BATCH_ID, 1), (BATCH_ID, 2)]


def test_a_part_has_the_tasks_the_depth_and_the_parent_of_its_origin() -> None:
    child = Batch(BATCH_ID, BATCH.shapes, BATCH.tasks, 2, Parent(OTHER_ID, 0, 1, 0))
    part = sharing.part_of(child, [2], ids.batch_id(PREFIX, 9))
    assert part.id == ids.batch_id(PREFIX, 9)
    assert part.tasks[0].arguments == BATCH.tasks[2].arguments
    assert (part.depth, part.parent) == (2, child.parent)


def test_a_part_carries_the_shapes_that_it_needs_and_no_others() -> None:
    shapes = tuple(Shape("f" * 64, f"f{n}", 1, {}) for n in range(3))
    task = Task(2, b"a", b"b", (b"c",), (b"d",))
    batch = Batch(BATCH_ID, shapes, (Task(1), Task(0), task, Task(2)))
    part = sharing.part_of(batch, [1, 2, 3], OTHER_ID)
    assert part.shapes == (shapes[0], shapes[2])
    assert [task.shape for task in part.tasks] == [0, 1, 1]
    assert part.tasks[1] == Task(1, b"a", b"b", (b"c",), (b"d",), sharing.address(BATCH_ID, 2))


# -- giving away ---------------------------------------------------------------------------


def test_giving_away_writes_the_batch_before_it_says_moved() -> None:
    procedure = sharing.give_away(Journal(BATCH_ID, 3), PART, name_of(PART), claim=1)
    assert next(procedure).key == claim_of(name_of(PART).stem, 0)  # type: ignore[union-attr]
    assert procedure.send(None).key == journals.key(BATCH_ID, 0)  # type: ignore[union-attr]


def test_giving_away_costs_two_requests(store: Store, ledger: Ledger) -> None:
    journal = Journal(BATCH_ID, 3)
    fresh = drive(store, sharing.give_away(journal, PART, name_of(PART), claim=4))
    assert fresh == [1, 2]
    assert ledger == Ledger(put=2)
    words = (moved(1, OTHER_ID, 0), moved(2, OTHER_ID, 1))
    assert entries_of(store, BATCH_ID) == [Entry(4, words)]


def test_a_task_that_was_decided_meanwhile_is_not_moved(store: Store) -> None:
    write(store, BATCH_ID, Entry(0, (cancelled(1),)))
    journal = Journal(BATCH_ID, 3)
    assert drive(store, sharing.give_away(journal, PART, name_of(PART), claim=1)) == [1, 2]
    assert journal.decided == {1: cancelled(1), 2: moved(2, OTHER_ID, 1)}


# -- settling ------------------------------------------------------------------------------


def claim_part(store: Store, part: Batch = PART) -> Journal:
    """Win a given-away batch and settle it, as an agent does."""
    won = drive(store, claims.claim(name_of(part), 1, "b"))
    assert isinstance(won, claims.Won)
    drive(store, sharing.settle(won.batch, won.journal, claim=1))
    return won.journal


@pytest.fixture
def orphaned(store: Store) -> Store:
    """The giver died before it could say MOVED."""
    drive(store, claims.submit(name_of(PART), PART))
    return store


def test_settling_says_moved_where_the_giver_could_not(orphaned: Store) -> None:
    journal = claim_part(orphaned)
    assert journal.decided == {}
    words = (moved(1, OTHER_ID, 0), moved(2, OTHER_ID, 1))
    assert entries_of(orphaned, BATCH_ID) == [Entry(0, words)]


def test_settling_again_says_nothing_again(orphaned: Store) -> None:
    claim_part(orphaned)
    journal = Journal(OTHER_ID, 2)
    drive(orphaned, sharing.settle(PART, journal, claim=2))
    assert len(entries_of(orphaned, BATCH_ID)) == 1
    assert entries_of(orphaned, OTHER_ID) == []


def test_settling_drops_what_the_origin_decided_first(orphaned: Store) -> None:
    write(orphaned, BATCH_ID, Entry(1, (done(2),)))
    journal = claim_part(orphaned)
    assert journal.decided == {1: cancelled(1)}
    assert entries_of(orphaned, OTHER_ID) == [Entry(1, (cancelled(1),))]


def test_settling_drops_what_moved_elsewhere(orphaned: Store) -> None:
    write(orphaned, BATCH_ID, Entry(1, (moved(1, ids.batch_id(PREFIX, 5), 0),)))
    assert claim_part(orphaned).decided == {0: cancelled(0)}


def test_nobody_follows_a_moved_to_what_settling_dropped(orphaned: Store) -> None:
    write(orphaned, BATCH_ID, Entry(1, (done(2, b"true"),)))
    claim_part(orphaned)
    word = drive(orphaned, Results().follow(ids.object_id(BATCH_ID, 2)))
    assert word == done(2, b"true")


def test_settling_leaves_alone_what_is_decided_here(orphaned: Store) -> None:
    write(orphaned, OTHER_ID, Entry(1, (done(0), done(1))))
    journal = Journal(OTHER_ID, 2)
    drive(orphaned, journals.catch_up(journal))
    drive(orphaned, sharing.settle(PART, journal, claim=2))
    assert entries_of(orphaned, BATCH_ID) == []


def test_settling_tasks_of_several_origins_asks_each(store: Store) -> None:
    third = ids.batch_id(PREFIX, 2)
    mixed = Batch(
        third,
        BATCH.shapes,
        (
            Task(0, origin=sharing.address(BATCH_ID, 0)),
            Task(0),
            Task(0, origin=sharing.address(OTHER_ID, 7)),
        ),
    )
    drive(store, sharing.settle(mixed, Journal(third, 3), claim=1))
    assert entries_of(store, BATCH_ID) == [Entry(0, (moved(0, third, 0),))]
    assert entries_of(store, OTHER_ID) == [Entry(0, (moved(7, third, 2),))]


def test_a_task_that_may_run_once_is_not_settled_away_from_its_run(store: Store) -> None:
    once = batch_of(1, max_retries=0)
    part = sharing.part_of(once, [0], OTHER_ID)
    drive(store, claims.submit(name_of(part), part))
    write(store, once.id, Entry(1, (started(0),)))
    journal = claim_part(store, part)
    assert journal.decided[0].verb is Verb.CANCELLED
    assert entries_of(store, once.id) == [Entry(1, (started(0),))]
