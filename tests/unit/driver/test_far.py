"""When a driver looks whether what it waits for has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudray.driver.far import FIRST_LOOK_S, SOONEST_LOOK_S, Far
from cloudray.driver.looking import Open
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Batch
from cloudray.store import Get, Reliable
from cloudray.store.layout import QueueName, claim_of
from tests.unit.driver.gated import GatedStore, becomes
from tests.unit.protocol.builders import batch_of, name_of

LONGEST_S = 1.0
BATCH = batch_of(1)
KEY = claim_of(name_of(BATCH).stem, 0)
OTHER = batch_of(1, number=1)
NOW_S = 1000.0


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
def far(store: GatedStore) -> Iterator[Far]:
    async def rung(name: QueueName, batch: Batch) -> None:
        del name, batch

    far = Far(Reliable(store), LONGEST_S, lambda _: None, rung)
    yield far
    store.release_all()
    far.close()


def has_looked_for(store: GatedStore, batch: Batch) -> bool:
    return Get(journals.key(batch.id, 0)) in store.asked


def look(far: Far, *batches: Batch) -> None:
    far.look([Open(batch.id, 0, 1) for batch in batches], NOW_S)
    assert becomes(lambda: not far.is_looking)


def test_what_is_on_its_way_is_not_looked_for(far: Far, store: GatedStore) -> None:
    store.hold(KEY)
    far.uploads.batch(name_of(BATCH), BATCH)
    look(far, BATCH, OTHER)
    assert (has_looked_for(store, BATCH), has_looked_for(store, OTHER)) == (False, True)
    store.release(KEY)
    far.uploads.wait()
    look(far, BATCH)
    assert has_looked_for(store, BATCH)


@pytest.mark.parametrize(
    ("took_s", "after_s"),
    [(0.02, 0.04), (0.2, 0.4), (0.0001, SOONEST_LOOK_S), (30.0, LONGEST_S)],
)
def test_the_first_look_comes_when_an_agent_can_have_claimed_and_published(
    far: Far, store: GatedStore, took_s: float, after_s: float
) -> None:
    store.hold(KEY)
    far.uploads.batch(name_of(BATCH), BATCH)
    look(far, BATCH)
    assert far.due_s(NOW_S) == LONGEST_S
    far.stored(NOW_S, took_s)
    assert far.due_s(NOW_S) == pytest.approx(after_s)


def test_batches_that_are_stored_do_not_put_off_the_look_for_others(far: Far) -> None:
    look(far, OTHER)
    far.looked(NOW_S, news=False)
    due_s = far.due_s(NOW_S)
    for turn in range(10):
        far.stored(NOW_S + turn * 0.01, 0.02)
    assert far.due_s(NOW_S) == due_s


def test_after_a_batch_was_stored_looks_come_often_again(far: Far) -> None:
    for _ in range(20):
        far.looked(NOW_S, news=False)
    assert far.due_s(NOW_S) == LONGEST_S
    far.stored(NOW_S, 0.01)
    far.looked(NOW_S, news=False)
    assert far.due_s(NOW_S) < 2 * FIRST_LOOK_S
