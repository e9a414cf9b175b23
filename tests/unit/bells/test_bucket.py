from __future__ import annotations

import asyncio
from random import Random

import pytest

from cloudray.bells.bucket import PERIOD_S, BucketBell, BucketEar, period_of
from cloudray.bells.hints import MAX_HINTS, Hint, open_hints, seal_hints
from cloudray.bells.pace import LONGEST_S
from cloudray.keyring import new_key
from cloudray.store import (
    Counting,
    FaultPlan,
    Faulty,
    Ledger,
    MemoryStore,
    Reliable,
    Signed,
    StoreError,
    layout,
)
from cloudray.store.base import GetIfChanged, Op
from tests.unit.agent.bench import Remote
from tests.unit.bells.test_hints import hint


class Place:
    """A store far away, its bell, and the requests that were sent."""

    def __init__(self) -> None:
        self.raw = Remote()
        self.ledger = Ledger()
        self.store = Reliable(Counting(self.raw, self.ledger))

    def bell(self) -> BucketBell:
        return BucketBell(self.store, asyncio.get_running_loop().time)

    def ear(self) -> BucketEar:
        return BucketEar(self.store, asyncio.get_running_loop().time, Random(1))

    def says(self) -> tuple[Hint, ...]:
        body = self.raw.get(layout.BELL)
        return () if body is None else open_hints(body, layout.BELL)


@pytest.fixture
def place() -> Place:
    return Place()


async def heard(ear: BucketEar) -> list[Hint] | None:
    found = await ear.hear(1)
    return None if found is None else [each.hint for each in found]


# -- ringing -------------------------------------------------------------------------------


async def test_a_ring_names_a_batch_beside_those_of_others(place: Place) -> None:
    await place.bell().ring([hint(1)])
    await place.bell().ring([hint(2), hint(3)])
    assert place.says() == (hint(1), hint(2), hint(3))


async def test_a_ring_is_one_put_between_two_reads(place: Place) -> None:
    await place.bell().ring([hint(1)])
    assert place.ledger == Ledger(put=1, get=2)


async def test_names_that_another_ring_has_overwritten_are_rung_for_again(place: Place) -> None:
    ringing = asyncio.create_task(place.bell().ring([hint(1)]))
    await asyncio.sleep(PERIOD_S / 2)
    assert place.says() == (hint(1),)
    place.raw.put(layout.BELL, seal_hints([hint(2)]))
    await ringing
    assert place.says() == (hint(2), hint(1))


async def test_names_that_newer_ones_have_pushed_out_are_not_rung_for_again(place: Place) -> None:
    ringing = asyncio.create_task(place.bell().ring([hint(1000)]))
    await asyncio.sleep(PERIOD_S / 2)
    full = tuple(map(hint, range(MAX_HINTS)))
    place.raw.put(layout.BELL, seal_hints(full))
    await ringing
    assert place.says() == full


async def test_a_bell_that_was_read_beside_the_put_of_its_batch_is_not_read_again(
    place: Place,
) -> None:
    bell = place.bell()
    await bell.announce(hint(1), bytes)
    assert place.ledger == Ledger(get=1)
    ringing = asyncio.create_task(bell.ring([hint(1)]))
    await asyncio.sleep(0)
    await bell.flush()
    assert place.ledger == Ledger(put=1, get=1)
    await ringing


async def test_rings_of_one_submitter_that_come_fast_are_put_together(place: Place) -> None:
    bell = place.bell()
    await asyncio.gather(*(bell.ring([hint(number)]) for number in range(100)))
    assert place.ledger == Ledger(put=1, get=2)
    assert len(place.says()) == 100


async def test_a_submitter_rings_no_more_often_than_its_period(place: Place) -> None:
    bell, loop = place.bell(), asyncio.get_running_loop()
    began_s = loop.time()
    for number in range(20):
        await bell.ring([hint(number)])
    assert loop.time() - began_s >= 19 * PERIOD_S


async def test_flushing_waits_until_all_is_rung(place: Place) -> None:
    bell = place.bell()
    ringing = asyncio.create_task(bell.ring([hint(2)]))
    await asyncio.sleep(0)
    await bell.flush()
    assert hint(2) in place.says()
    await ringing


async def test_a_bell_that_cannot_be_read_is_overwritten(place: Place) -> None:
    place.raw.put(layout.BELL, b"something else")
    await place.bell().ring([hint(1)])
    assert place.says() == (hint(1),)


async def test_a_ring_that_the_store_refuses_raises_nothing() -> None:
    class Refusing(Remote):
        def perform(self, op: Op) -> object:
            raise StoreError("no permission")

    bell = BucketBell(Refusing(), asyncio.get_running_loop().time)
    await bell.ring([hint(1)])
    await bell.flush()


def test_where_a_key_takes_one_write_a_second_rings_are_as_rare() -> None:
    assert period_of("https://account.r2.cloudflarestorage.com") == 1.0
    assert period_of("s3://b?endpoint=https://account.r2.cloudflarestorage.com") == 1.0
    assert period_of("gs://bucket/prefix") == 1.0
    assert period_of("s3://bucket/prefix") == PERIOD_S


# -- listening -----------------------------------------------------------------------------


async def test_an_agent_hears_each_hint_once(place: Place) -> None:
    bell, ear = place.bell(), place.ear()
    await bell.ring([hint(1)])
    assert await heard(ear) == [hint(1)]
    await bell.ring([hint(2)])
    assert await heard(ear) == [hint(2)]


async def test_a_bell_that_is_unchanged_says_nothing(place: Place) -> None:
    ear = place.ear()
    assert await heard(ear) is None
    await place.bell().ring([hint(1)])
    await heard(ear)
    assert await heard(ear) is None


async def test_a_ring_whose_names_were_overwritten_brings_nothing(place: Place) -> None:
    ear = place.ear()
    await place.bell().ring([hint(1)])
    await heard(ear)
    place.raw.put(layout.BELL, seal_hints([hint(1)]))
    assert await heard(ear) == []


async def test_what_was_rung_before_an_agent_began_is_left_to_its_first_scan(place: Place) -> None:
    ear = place.ear()
    await place.bell().ring([hint(1)])
    await ear.begin()
    await place.bell().ring([hint(2)])
    assert await heard(ear) == [hint(2)]


async def test_a_batch_that_was_given_back_is_heard_again(place: Place) -> None:
    bell, ear = place.bell(), place.ear()
    await bell.ring([hint(1)])
    await heard(ear)
    await bell.ring([hint(1, 3)])
    assert await heard(ear) == [hint(1, 3)]


async def test_each_look_is_one_conditional_read(place: Place) -> None:
    ear = place.ear()
    for _ in range(5):
        await ear.hear(1)
    assert place.ledger == Ledger(get=5)


async def test_a_ring_makes_an_agent_look_often(place: Place) -> None:
    ear, loop = place.ear(), asyncio.get_running_loop()
    await place.bell().ring([hint(1)])
    await ear.hear(1)
    began_s = loop.time()
    await ear.hear(1)
    assert loop.time() - began_s < 0.1 * LONGEST_S


async def test_work_found_otherwise_ends_the_long_wait_of_an_idle_agent(place: Place) -> None:
    ear, loop = place.ear(), asyncio.get_running_loop()
    began_s = loop.time()
    hearing = loop.create_task(heard(ear))
    await asyncio.sleep(0)  # it waits now, as who has had no work for long does
    ear.worked()
    await place.bell().ring([hint(1)])
    assert await hearing == [hint(1)]
    assert loop.time() - began_s < 0.1 * LONGEST_S


async def test_what_is_no_bell_is_ignored_and_counted(place: Place) -> None:
    ear = place.ear()
    place.raw.put(layout.BELL, b"something else")
    assert await heard(ear) is None
    assert ear.ignored == 1
    place.raw.put(layout.BELL, seal_hints([hint(1)]))
    assert await heard(ear) == [hint(1)]


async def test_a_forged_bell_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    raw = Remote()
    store = Signed(raw, new_key())
    ear = BucketEar(store, asyncio.get_running_loop().time, Random(1))
    raw.put(layout.BELL, seal_hints([hint(1)]))
    for _ in range(3):
        assert await heard(ear) is None
    assert ear.ignored == 3
    assert len(caplog.records) == 1


async def test_what_is_no_bell_is_reported_once_though_it_is_written_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    ear = place.ear()
    for _ in range(3):
        place.raw.put(layout.BELL, b"something else")
        assert await heard(ear) is None
    assert caplog.text.count("the bell was ignored") == 1


async def test_a_store_that_fails_rings_no_bell() -> None:
    class Refusing(Remote):
        def perform(self, op: Op) -> object:
            assert isinstance(op, GetIfChanged)
            raise StoreError("no permission")

    assert await heard(BucketEar(Refusing(), asyncio.get_running_loop().time, Random(1))) is None


async def test_rings_through_faults_are_heard() -> None:
    faulty = Faulty(MemoryStore(), Random(3), FaultPlan.even(0.3))
    store = Reliable(faulty, rng=Random(3), sleep_async=lambda _: asyncio.sleep(0))
    clock = asyncio.get_running_loop().time
    bell, ear = BucketBell(store, clock), BucketEar(store, clock, Random(1))
    for number in range(20):
        await bell.ring([hint(number)])
    found = await heard(ear)
    assert found == [hint(number) for number in range(20)]
    assert faulty.struck
