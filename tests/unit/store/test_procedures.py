from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudray.store import (
    Get,
    MemoryStore,
    Op,
    Procedure,
    Put,
    StoreError,
    TransientStoreError,
    drive,
    drive_async,
)
from cloudray.store.procedures import Together

from .scripted import Scripted


def copy(source: str, target: str) -> Procedure[int]:
    body = yield Get(source)
    yield Put(target, body)
    return len(body)


def read_twice(key: str) -> Procedure[bytes]:
    try:
        found: bytes = yield Get(key)
    except StoreError:
        found = yield Get(key)
    return found


def test_a_procedure_is_sent_the_answers_and_its_result_returned() -> None:
    store = MemoryStore()
    store.put("a", b"body")
    assert drive(store, copy("a", "b")) == 4
    assert store.get("b") == b"body"


def test_a_procedure_that_asks_nothing_just_returns() -> None:
    def nothing() -> Procedure[str]:
        return "done"
        yield

    assert drive(Scripted(), nothing()) == "done"


def test_errors_of_the_store_are_thrown_into_the_procedure() -> None:
    assert drive(Scripted([TransientStoreError("lost"), b"body"]), read_twice("a")) == b"body"


def test_what_a_procedure_does_not_catch_reaches_its_driver() -> None:
    with pytest.raises(StoreError, match="second"):
        drive(Scripted([StoreError("first"), StoreError("second")]), read_twice("a"))


def test_an_error_that_is_not_the_stores_is_not_the_procedures() -> None:
    with pytest.raises(KeyError):
        drive(Scripted([KeyError("a bug")]), read_twice("a"))


def test_against_an_inline_store_nothing_suspends() -> None:
    store = MemoryStore()
    store.put("a", b"body")
    coroutine = drive_async(store, copy("a", "b"))
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == 4


def test_on_an_event_loop_errors_are_thrown_in_too() -> None:
    store = Scripted([TransientStoreError("lost"), b"body"])
    assert asyncio.run(drive_async(store, read_twice("a"))) == b"body"


# -- together --------------------------------------------------------------------------------


def read_both(first: str, second: str) -> Procedure[list[bytes | None]]:
    found: list[bytes | None] = yield Together((Get(first), Get(second)))
    return found


def test_operations_performed_together_are_answered_in_their_order() -> None:
    store = MemoryStore()
    store.put("b", b"body")
    assert drive(store, read_both("a", "b")) == [None, b"body"]
    assert asyncio.run(drive_async(store, read_both("a", "b"))) == [None, b"body"]


def test_on_an_event_loop_they_are_under_way_at_the_same_time() -> None:
    under_way: list[int] = []

    class Slow(MemoryStore):
        waiting = 0

        async def perform_async(self, op: Op) -> Any:
            self.waiting += 1
            await asyncio.sleep(0)
            under_way.append(self.waiting)
            return self.perform(op)

    asyncio.run(drive_async(Slow(), read_both("a", "b")))
    assert under_way == [2, 2]


def test_the_first_error_of_several_is_thrown_when_all_are_over() -> None:
    over: list[str] = []

    class Failing(MemoryStore):
        async def perform_async(self, op: Op) -> Any:
            assert isinstance(op, Get)
            await asyncio.sleep(0.01 if op.key == "a" else 0)
            over.append(op.key)
            raise StoreError(op.key)

    def careful() -> Procedure[str]:
        try:
            yield from read_both("a", "b")
        except StoreError as error:
            return f"{error} of {sorted(over)}"
        return ""

    assert asyncio.run(drive_async(Failing(), careful())) == "a of ['a', 'b']"
