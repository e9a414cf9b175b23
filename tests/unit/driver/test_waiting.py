"""Waiting where the store is far away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudray import ids
from cloudray.driver import uploads, waiting
from cloudray.driver.client import DriverClient
from cloudray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RaySystemError,
    TaskCancelledError,
)
from cloudray.protocol.records import Entry, Verb, Word, seal
from cloudray.store import Op, StoreError, layout
from cloudray.values import codec
from tests.unit.driver.distant import (
    LIMIT_S,
    answer,
    driver_of,
    next_put_key,
    put,
    put_held,
    submit,
)
from tests.unit.driver.gated import GatedStore, becomes


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
def client(store: GatedStore) -> Iterator[DriverClient]:
    with driver_of(store) as client:
        yield client


# -- values that are being stored ----------------------------------------------------------------


def test_a_get_with_a_limit_waits_no_longer_for_a_value_that_is_being_stored(
    client: DriverClient, store: GatedStore
) -> None:
    ref, key = put_held(client, store, "value")
    with pytest.raises(GetTimeoutError, match="being stored"):
        client.get([ref], 0.1)
    assert client.describe(ref.id) == "being stored"
    store.release(key)
    assert client.get([ref], LIMIT_S) == ["value"]
    assert client.describe(ref.id) == "stored"


def test_a_value_is_ready_when_it_is_stored(client: DriverClient, store: GatedStore) -> None:
    ref, key = put_held(client, store, "value")
    assert client.wait([ref], 1, 0.1) == ([], [ref])
    store.release(key)
    assert client.wait([ref], 1, None) == ([ref], [])
    assert store.get(key) is not None


def test_what_is_stored_first_is_ready_first(client: DriverClient, store: GatedStore) -> None:
    held, key = put_held(client, store, "held")
    other = put(client, "other")
    assert client.wait([held, other], 1, LIMIT_S) == ([other], [held])
    store.release(key)
    assert client.get([held, other], LIMIT_S) == ["held", "other"]


def test_who_polls_for_a_value_he_has_just_put_finds_it(
    client: DriverClient, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_GLANCE_S", LIMIT_S)
    ref, key = put_held(client, store, "value")
    releasing = threading.Timer(0.05, store.release, (key,))
    releasing.start()
    assert client.wait([ref], 1, 0.0) == ([ref], [])
    releasing.join()


def test_but_waits_for_it_only_once(
    client: DriverClient, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_GLANCE_S", 0.05)
    ref, _ = put_held(client, store, "value")
    assert client.wait([ref], 1, 0.0) == ([], [ref])
    monkeypatch.setattr(waiting, "_GLANCE_S", LIMIT_S)
    # Else it would wait until the test's end.
    assert client.wait([ref], 1, 0.0) == ([], [ref])


def test_a_value_that_cannot_be_stored_is_lost(client: DriverClient, store: GatedStore) -> None:
    store.break_key(next_put_key(client))
    ref = put(client, "value")
    with pytest.raises(ObjectLostError, match=r"could not be stored.*refused"):
        client.get([ref], LIMIT_S)
    assert client.wait([ref], 1, LIMIT_S) == ([ref], [])


def test_the_future_of_a_value_ends_when_it_is_stored(
    client: DriverClient, store: GatedStore
) -> None:
    ref, key = put_held(client, store, "value")
    future = client.future(ref)
    assert not future.done()
    store.release(key)
    assert future.result(LIMIT_S) == "value"


def test_a_value_that_is_being_stored_may_be_awaited(
    client: DriverClient, store: GatedStore
) -> None:
    ref, key = put_held(client, store, "value")

    async def wait() -> object:
        waits = asyncio.wrap_future(client.future(ref))
        store.release(key)
        return await waits

    assert asyncio.run(wait()) == "value"


def test_the_future_of_a_value_that_cannot_be_stored_fails(
    client: DriverClient, store: GatedStore
) -> None:
    key = next_put_key(client)
    store.break_key(key)
    ref, _ = put_held(client, store, "value")
    future = client.future(ref)
    store.release(key)
    with pytest.raises(ObjectLostError, match="could not be stored"):
        future.result(LIMIT_S)


def test_waiting_for_a_value_that_is_being_stored_asks_nothing(
    client: DriverClient, store: GatedStore
) -> None:
    ref, key = put_held(client, store, "value")
    store.await_asked(key)
    assert client.wait([ref], 1, 0.1) == ([], [ref])
    assert [getattr(op, "key", "") for op in store.asked] == [key]


# -- room --------------------------------------------------------------------------------------


def test_who_waits_for_room_keeps_nobody_else_waiting(
    client: DriverClient, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put(client, "there")
    client.flush()
    first = submit(client)
    monkeypatch.setattr(uploads, "MAX_PENDING_BYTES", 1000)
    _, key = put_held(client, store, bytes(2000))
    submitter = threading.Thread(target=lambda: submit(client))
    submitter.start()
    try:
        assert client._far is not None
        bells = client._far.uploads._bells
        assert becomes(lambda: bool(bells))
        assert client.get([there], LIMIT_S) == ["there"]
        assert submitter.is_alive()
        assert client.wait([first], 1, 0.0) == ([], [first])
    finally:
        store.release(key)
        submitter.join(LIMIT_S)
    assert not submitter.is_alive()


# -- polling -----------------------------------------------------------------------------------


def test_who_only_polls_learns_of_what_comes(client: DriverClient, store: GatedStore) -> None:
    ref = submit(client)
    client.flush()
    assert client.wait([ref], 1, 0.0) == ([], [ref])
    answer(store, ref, "value")
    deadline_s = time.monotonic() + LIMIT_S
    while client.wait([ref], 1, 0.0) != ([ref], []):
        assert time.monotonic() < deadline_s
    assert client.get([ref], 0.0) == ["value"]


def test_what_was_there_before_is_seen_at_the_first_poll(
    client: DriverClient, store: GatedStore
) -> None:
    ref = submit(client)
    client.flush()
    answer(store, ref, "value")
    # As if another program had submitted it.
    client._following.results.journals.pop(ids.unit_of(ref.id))
    client._following._open.pop(ids.unit_of(ref.id))
    assert client.wait([ref], 1, 0.0) == ([ref], [])


# -- futures -----------------------------------------------------------------------------------


def test_who_asks_for_a_future_when_nothing_will_ever_run_is_told_so(
    client: DriverClient,
) -> None:
    ref = submit(client)
    client.give_up("all is over")
    with pytest.raises(RaySystemError, match="all is over"):
        client.future(ref).result(LIMIT_S)


def test_a_future_that_is_asked_for_at_the_end_ends_too(store: GatedStore) -> None:
    with driver_of(store) as client:
        ref = submit(client)
    with pytest.raises(RaySystemError, match="shut down"):
        client.future(ref).result(LIMIT_S)


def test_futures_end_when_the_end_is_interrupted(
    store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driver_of(store) as client:
        future = client.future(submit(client))
        assert client._far is not None
        close = client._far.close

        def interrupted() -> None:
            close()
            raise KeyboardInterrupt

        monkeypatch.setattr(client._far, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.hang_up()
        with pytest.raises(RaySystemError, match="shut down"):
            future.result(LIMIT_S)


def test_a_value_that_cannot_be_read_fails_its_future_and_nobody_else(
    client: DriverClient, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, there = submit(client), submit(client)
    client.flush()
    future = client.future(broken)
    key = layout.put_object(broken.id)
    perform = store.perform

    def refuse(op: Op) -> Any:
        if getattr(op, "key", "") == key:
            raise StoreError("it is refused")
        return perform(op)

    monkeypatch.setattr(client.store, "_raw", refuse)
    words = (
        Word(ids.index_of(broken.id), Verb.DONE, (codec.stored(key, 0),)),
        Word(ids.index_of(there.id), Verb.DONE, (codec.dumps("there").to_bytes(),)),
    )
    store.put(f"{layout.journal(ids.unit_of(there.id))}0", seal(Entry(1, words)))
    assert client.get([there], LIMIT_S) == ["there"]
    with pytest.raises(StoreError, match="refused"):
        future.result(LIMIT_S)
    with pytest.raises(StoreError, match="refused"):
        client.future(broken).result(LIMIT_S)


# -- cancelling --------------------------------------------------------------------------------


def test_who_cancels_while_the_store_is_away_keeps_nobody_waiting(
    client: DriverClient, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put(client, "there")
    ref = submit(client)
    client.flush()
    key = f"{layout.journal(ids.unit_of(ref.id))}0"
    away, back = threading.Event(), threading.Event()
    perform = store.perform

    def wait(op: Op) -> Any:
        if getattr(op, "key", "") == key:
            away.set()
            back.wait(LIMIT_S)
        return perform(op)

    monkeypatch.setattr(client.store, "_raw", wait)
    cancelling = threading.Thread(target=lambda: client.cancel(ref, force=False, recursive=True))
    cancelling.start()
    try:
        assert away.wait(LIMIT_S)
        other = threading.Thread(target=lambda: (submit(client), client.get([there], 0.0)))
        other.start()
        other.join(LIMIT_S)
        assert not other.is_alive()
        assert not back.is_set()
        assert cancelling.is_alive()
    finally:
        back.set()
        cancelling.join(LIMIT_S)
    with pytest.raises(TaskCancelledError):
        client.get([ref], LIMIT_S)
