from __future__ import annotations

import asyncio

import pytest

from cloudray.store import (
    Get,
    MemoryStore,
    Procedure,
    Put,
    StoreError,
    TransientStoreError,
    drive,
    drive_async,
)

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
