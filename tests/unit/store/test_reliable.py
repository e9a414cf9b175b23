from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cloudray.store import (
    Create,
    Delete,
    Fault,
    FaultPlan,
    Faulty,
    Get,
    GetMany,
    Head,
    Kind,
    List,
    MemoryStore,
    Op,
    Put,
    Reliable,
    StoreError,
    TransientStoreError,
    seal,
)

from .scripted import Scripted

OURS = seal(Kind.PROBE, b"ours")
THEIRS = seal(Kind.PROBE, b"theirs")
CREATE = Create("key", OURS)
LOST = TransientStoreError("connection lost")
Perform = Callable[[Reliable, Op], Any]


def blocking(store: Reliable, op: Op) -> Any:
    return store.perform(op)


def suspending(store: Reliable, op: Op) -> Any:
    """Await an operation that must not wait for anything."""
    coroutine = store.perform_async(op)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


@pytest.fixture(params=[blocking, suspending])
def perform(request: pytest.FixtureRequest) -> Perform:
    chosen: Perform = request.param
    return chosen


@pytest.fixture
def slept_s() -> list[float]:
    return []


@pytest.fixture
def reliable(slept_s: list[float]) -> Callable[..., Reliable]:
    """Make scripted stores reliable, with sleeps that are only remembered."""

    async def sleep_async(delay_s: float) -> None:
        slept_s.append(delay_s)

    def make(*answers: Any, **options: Any) -> Reliable:
        return Reliable(
            Scripted(answers),
            rng=Random(1),
            sleep=slept_s.append,
            sleep_async=sleep_async,
            **options,
        )

    return make


def asked(store: Reliable) -> list[Op]:
    inner = store._store
    assert isinstance(inner, Scripted)
    return inner.asked


def test_a_create_that_wins_at_once_is_one_request(
    reliable: Callable[..., Reliable], perform: Perform
) -> None:
    store = reliable(True)
    assert perform(store, CREATE) is None
    assert asked(store) == [CREATE]


@pytest.mark.parametrize("first", [False, LOST])
def test_a_create_goes_on_where_its_first_answer_left_it(
    reliable: Callable[..., Reliable], perform: Perform, slept_s: list[float], first: Any
) -> None:
    store = reliable(first, None, first, THEIRS)
    assert perform(store, CREATE) == THEIRS
    assert asked(store) == [CREATE, Get("key"), CREATE, Get("key")]
    assert len(slept_s) == 1


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        (Put("key", b"body"), None),
        (Get("key"), b"body"),
        (Get("key"), None),
        (GetMany(("a", "b")), [b"a", None]),
        (Head("key"), None),
        (List("prefix"), []),
        (Delete(("key",)), None),
    ],
)
def test_all_else_is_repeated_until_it_is_answered(
    reliable: Callable[..., Reliable],
    perform: Perform,
    slept_s: list[float],
    op: Op,
    answer: Any,
) -> None:
    store = reliable(LOST, LOST, answer)
    assert perform(store, op) == answer
    assert asked(store) == [op] * 3
    assert len(slept_s) == 2


def test_it_waits_longer_each_time_but_not_for_ever(
    reliable: Callable[..., Reliable], perform: Perform, slept_s: list[float]
) -> None:
    perform(reliable(*[LOST] * 80, b"body"), Get("key"))
    assert all(0.025 * 2**n <= slept_s[n] <= 0.05 * 2**n for n in range(6))
    assert all(2.5 <= delay_s <= 5.0 for delay_s in slept_s[7:])


def test_a_refusal_is_not_repeated(reliable: Callable[..., Reliable], perform: Perform) -> None:
    store = reliable(StoreError("403"))
    with pytest.raises(StoreError, match="403"):
        perform(store, Get("key"))
    assert len(asked(store)) == 1


@pytest.mark.parametrize("op", [CREATE, Get("key")])
def test_it_gives_up_when_told_to(
    reliable: Callable[..., Reliable], perform: Perform, slept_s: list[float], op: Op
) -> None:
    store = reliable(*[LOST] * 100, give_up_s=10.0, clock=lambda: sum(slept_s))
    with pytest.raises(TransientStoreError):
        perform(store, op)
    assert 10.0 <= sum(slept_s) <= 15.0


def test_it_is_in_all_else_the_store_it_wraps(tmp_path: Path) -> None:
    class Local(MemoryStore):
        closed = False

        def path(self, key: str) -> Path:
            return tmp_path / key

        def close(self) -> None:
            self.closed = True

    inner = Local("memory://inner")
    store = Reliable(inner)
    assert store.url == "memory://inner"
    assert store.inline
    assert store.path("key") == tmp_path / "key"
    store.close()
    assert inner.closed


PLAN = FaultPlan(
    conflict=0.1,
    precondition=0.1,
    throttled=0.05,
    unavailable_before=0.05,
    unavailable_after=0.1,
    dropped=0.1,
    late=0.2,
)


@pytest.mark.parametrize("first_seed", range(0, 400, 100))
def test_whatever_fails_a_key_has_one_winner_whom_all_agree_on(first_seed: int) -> None:
    struck: set[Fault] = set()
    for seed in range(first_seed, first_seed + 100):
        memory, rng = MemoryStore(), Random(seed)
        bodies = [seal(Kind.PROBE, b"%d" % writer) for writer in range(3)]
        told = []
        for body in bodies:
            faulty = Faulty(memory, rng, PLAN)
            told.append(Reliable(faulty, rng=rng, sleep=lambda _: None).perform(Create("k", body)))
            struck |= set(faulty.struck)
        holder = memory.get("k")
        assert [body for body, answer in zip(bodies, told, strict=True) if answer is None] == [
            holder
        ]
        assert {answer for answer in told if answer is not None} == {holder}
    assert struck == set(Fault)


def test_threads_that_fail_agree_on_one_winner() -> None:
    memory, rng = MemoryStore(), Random(1)
    store = Reliable(Faulty(memory, rng, PLAN), rng=rng, sleep=lambda _: None)
    for key in map(str, range(20)):
        bodies = [seal(Kind.PROBE, b"%d" % writer) for writer in range(8)]
        with ThreadPoolExecutor(8) as threads:
            told = list(threads.map(store.perform, [Create(key, body) for body in bodies]))
        holder = memory.get(key)
        assert told.count(None) == 1
        assert bodies[told.index(None)] == holder
        assert set(told) == {None, holder}
