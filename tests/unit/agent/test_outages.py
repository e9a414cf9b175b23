from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudray.agent.outages import PATIENCE_S, SILENCE_S, Outages
from cloudray.store import Get, MemoryStore, Op, Put, Reliable, Store, StoreError
from cloudray.store.base import RefusedError, TransientStoreError

AWAY = TransientStoreError("no connection")
FORBIDDEN = RefusedError("forbidden")


class Flaky(Store):
    """A store whose next answers are these errors; each request takes a second."""

    url = "memory://flaky"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.errors: list[StoreError] = []
        self._store = MemoryStore()

    def perform(self, op: Op) -> Any:
        self.now_s += 1
        if self.errors:
            raise self.errors.pop(0)
        return self._store.perform(op)


class Watch:
    """A watched store, and what was said about it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.store = Flaky()
        self.outages = Outages(self.store, self.said.append, lambda: self.store.now_s)
        self.outages.joined = True

    def ask(self, *errors: StoreError) -> None:
        """Ask until the store answers, which first has these errors."""
        self.store.errors += errors
        store = Reliable(self.outages, sleep=lambda _: None)
        assert store.get("absent") is None


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_while_all_is_well_nothing_is_said(watch: Watch) -> None:
    watch.ask()
    watch.ask()
    watch.outages.look()
    assert watch.said == []


def test_trouble_that_passes_soon_is_not_worth_a_line(watch: Watch) -> None:
    for _ in range(20):
        watch.ask(AWAY)
    assert watch.said == []


def test_an_outage_is_said_once_with_the_reason_and_once_when_it_is_over(watch: Watch) -> None:
    watch.ask(*[AWAY] * 30)
    away, back = watch.said
    assert "no connection" in away
    assert "keeps what it holds" in away
    assert back == "the store is back after 31 s; the work goes on"


def test_a_second_outage_is_said_again(watch: Watch) -> None:
    watch.ask(*[AWAY] * 5)
    watch.ask(*[AWAY] * 5)
    assert len(watch.said) == 4


def test_who_has_joined_waits_out_a_refusal_too(watch: Watch) -> None:
    watch.ask(*[FORBIDDEN] * 5)
    away, back = watch.said
    assert "forbidden" in away
    assert "is back" in back


def test_before_it_has_joined_a_refusal_is_an_error(watch: Watch) -> None:
    watch.outages.joined = False
    with pytest.raises(RefusedError):
        watch.ask(FORBIDDEN)
    assert watch.said == []


def test_what_no_waiting_mends_is_an_error_at_once(watch: Watch) -> None:
    with pytest.raises(StoreError, match="too large"):
        watch.ask(StoreError("too large"))
    assert watch.said == []


def test_on_the_event_loop_it_is_the_same(watch: Watch) -> None:
    async def main() -> None:
        await store.perform_async(Put("key", b"body"))
        watch.store.errors += [AWAY] * 5
        assert await store.perform_async(Get("key")) == b"body"

    async def pause(_: float) -> None:
        await asyncio.sleep(0)

    store = Reliable(watch.outages, sleep_async=pause)
    asyncio.run(main())
    assert len(watch.said) == 2


def test_a_store_that_swallows_requests_is_found_out() -> None:
    asked = asyncio.Event()
    answers: asyncio.Event

    class Silent(Flaky):
        async def perform_async(self, op: Op) -> Any:
            asked.set()
            await answers.wait()
            return self.perform(op)

    async def main() -> None:
        nonlocal answers
        answers = asyncio.Event()
        request = asyncio.create_task(outages.perform_async(Get("key")))
        await asked.wait()
        store.now_s += SILENCE_S / 2
        outages.look()
        assert said == []
        store.now_s += SILENCE_S
        outages.look()
        outages.look()
        assert len(said) == 1
        assert "has not answered for 30 s" in said[0]
        answers.set()
        await request
        assert said[1].startswith("the store is back after 31 s")

    said: list[str] = []
    store = Silent()
    outages = Outages(store, said.append, lambda: store.now_s)
    asyncio.run(main())


def test_a_store_that_nobody_asks_is_not_missed(watch: Watch) -> None:
    watch.ask()
    watch.store.now_s += 10 * SILENCE_S
    watch.outages.look()
    assert watch.said == []


def test_patience_is_shorter_than_a_request_may_take() -> None:
    assert PATIENCE_S < SILENCE_S
