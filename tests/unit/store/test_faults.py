from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cloudray.store import (
    Adopt,
    Create,
    Delete,
    Fault,
    FaultPlan,
    Faulty,
    Get,
    Head,
    List,
    MemoryStore,
    Op,
    Put,
    Store,
    TransientStoreError,
)

ALWAYS = {
    Fault.CONFLICT: FaultPlan(conflict=1.0),
    Fault.PRECONDITION: FaultPlan(precondition=1.0),
    Fault.THROTTLED: FaultPlan(throttled=1.0),
    Fault.UNAVAILABLE_BEFORE: FaultPlan(unavailable_before=1.0),
    Fault.UNAVAILABLE_AFTER: FaultPlan(unavailable_after=1.0),
    Fault.DROPPED: FaultPlan(dropped=1.0),
    Fault.LATE: FaultPlan(late=1.0, late_by=0),
}
NO = "a no"
FAILS = "an error"


def answer(store: Store, op: Op, *, on_event_loop: bool) -> Any:
    try:
        found = asyncio.run(store.perform_async(op)) if on_event_loop else store.perform(op)
    except TransientStoreError:
        return FAILS
    return NO if found is False else found


@pytest.mark.parametrize("on_event_loop", [False, True])
@pytest.mark.parametrize(
    ("fault", "told", "written"),
    [
        (Fault.CONFLICT, NO, False),
        (Fault.PRECONDITION, NO, True),
        (Fault.THROTTLED, FAILS, False),
        (Fault.UNAVAILABLE_BEFORE, FAILS, False),
        (Fault.UNAVAILABLE_AFTER, FAILS, True),
        (Fault.DROPPED, FAILS, True),
        (Fault.LATE, FAILS, False),
    ],
)
def test_a_create_of_a_free_key_is_answered_as_by_a_real_store(
    fault: Fault, told: Any, *, written: bool, on_event_loop: bool
) -> None:
    memory = MemoryStore()
    store = Faulty(memory, Random(1), ALWAYS[fault])
    assert answer(store, Create("key", b"ours"), on_event_loop=on_event_loop) == told
    assert memory.get("key") == (b"ours" if written else None)
    assert store.struck == Counter([fault])


@pytest.mark.parametrize("fault", Fault)
def test_no_fault_lets_a_create_replace(fault: Fault) -> None:
    memory = MemoryStore()
    memory.put("key", b"theirs")
    store = Faulty(memory, Random(1), ALWAYS[fault])
    for _ in range(3):
        assert answer(store, Create("key", b"ours"), on_event_loop=False) in {NO, FAILS}
    assert memory.get("key") == b"theirs"


@pytest.mark.parametrize(
    ("fault", "written"),
    [
        (Fault.CONFLICT, False),
        (Fault.THROTTLED, False),
        (Fault.UNAVAILABLE_BEFORE, False),
        (Fault.UNAVAILABLE_AFTER, True),
        (Fault.DROPPED, True),
    ],
)
def test_a_put_fails_before_or_after_it_is_done(fault: Fault, *, written: bool) -> None:
    memory = MemoryStore()
    store = Faulty(memory, Random(1), ALWAYS[fault])
    with pytest.raises(TransientStoreError, match=f"writing key failed.*{fault.value}"):
        store.put("key", b"body")
    assert memory.get("key") == (b"body" if written else None)


@pytest.mark.parametrize("fault", [Fault.PRECONDITION, Fault.LATE])
@pytest.mark.parametrize("op", [Put("k", b""), Get("k"), Head("k"), List(""), Delete(("k",))])
def test_some_faults_strike_creates_only(fault: Fault, op: Op) -> None:
    store = Faulty(MemoryStore(), Random(1), ALWAYS[fault])
    assert answer(store, op, on_event_loop=False) != FAILS
    assert not store.struck


def test_a_late_create_arrives_before_a_later_operation() -> None:
    memory = MemoryStore()
    store = Faulty(memory, Random(1), FaultPlan(late=1.0, late_by=0))
    with pytest.raises(TransientStoreError):
        store.perform(Create("key", b"late"))
    assert memory.get("key") is None
    assert store.get("key") == b"late"


def test_a_late_create_that_was_overtaken_changes_nothing() -> None:
    memory = MemoryStore()
    store = Faulty(memory, Random(1), FaultPlan(late=1.0, late_by=0))
    with pytest.raises(TransientStoreError):
        store.perform(Create("key", b"late"))
    memory.perform(Create("key", b"overtaking"))
    assert asyncio.run(store.perform_async(Get("key"))) == b"overtaking"


def test_every_late_create_arrives_in_the_end() -> None:
    memory = MemoryStore()
    store = Faulty(memory, Random(1), FaultPlan(late=1.0, late_by=5))
    for key in "abc":
        with pytest.raises(TransientStoreError):
            store.perform(Create(key, b""))
    for _ in range(6):
        store.get("absent")
    assert [entry.key for entry in memory.list("")] == ["a", "b", "c"]


def test_a_file_whose_upload_seems_to_fail_is_still_there(tmp_path: Path) -> None:
    memory = MemoryStore()
    file = tmp_path / "file"
    file.write_bytes(b"body")
    with pytest.raises(TransientStoreError):
        Faulty(memory, Random(1), ALWAYS[Fault.DROPPED]).perform(Adopt("key", file))
    assert memory.get("key") == b"body"
    assert file.read_bytes() == b"body"


def strikes(seed: int) -> list[Any]:
    store = Faulty(MemoryStore(), Random(seed), FaultPlan.even(0.6))
    return [answer(store, Put("key", b""), on_event_loop=False) for _ in range(100)]


def test_a_seed_repeats_its_faults() -> None:
    assert strikes(5) == strikes(5)
    assert strikes(5) != strikes(6)


def test_a_plan_strikes_as_often_as_it_says() -> None:
    rng = Random(1)
    drawn = Counter(FaultPlan.even(0.6).draw(rng) for _ in range(6000))
    assert drawn[Fault.LATE] == 0
    for fault in set(Fault) - {Fault.LATE}:
        assert drawn[fault] == pytest.approx(600, rel=0.2)
    assert drawn[None] == pytest.approx(2400, rel=0.1)


def test_without_a_plan_all_answers_are_honest() -> None:
    store = Faulty(MemoryStore(), Random(1), FaultPlan())
    assert [store.perform(Create("key", b"")) for _ in range(3)] == [True, False, False]


def test_delays_pass_through_the_sleeps_it_was_given() -> None:
    slept_s: list[float] = []

    async def sleep_async(delay_s: float) -> None:
        slept_s.append(delay_s)

    store = Faulty(
        MemoryStore(),
        Random(1),
        FaultPlan(delay_s=3.0),
        sleep=slept_s.append,
        sleep_async=sleep_async,
    )
    assert not store.inline
    for _ in range(50):
        store.get("key")
        asyncio.run(store.perform_async(Get("key")))
    assert len(slept_s) == 100
    assert max(slept_s) <= 3.0
    assert max(slept_s) - min(slept_s) > 2.0
