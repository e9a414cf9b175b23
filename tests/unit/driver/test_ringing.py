from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cloudray.bells.base import Doorbell
from cloudray.bells.hints import Hint
from cloudray.driver.background import Background
from cloudray.driver.ringing import Ringing
from cloudray.protocol.records import Batch, unseal
from cloudray.store.layout import QueueName
from tests.unit.protocol.builders import batch_of, name_of

BATCH = batch_of(2)
NAME = name_of(BATCH)


class Bell(Doorbell):
    """A bell that remembers what was done with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        #: until it is set, announcing goes on
        self.announced = threading.Event()
        self.announced.set()

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:
        self.done.append(("announce", unseal(Batch, body(), "body")))
        if not self.announced.is_set():
            await asyncio.to_thread(self.announced.wait)

    async def ring(self, hints: Sequence[Hint]) -> None:
        self.done.append(("ring", *hints))

    async def flush(self) -> None:
        self.done.append("flush")

    async def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def ringing(bell: Bell) -> Ringing:
    async def stored(name: QueueName, batch: Batch) -> None:
        assert (name, batch) == (NAME, BATCH)
        bell.done.append("stored")

    return Ringing(bell, stored)


def test_a_batch_is_announced_before_it_is_stored_and_rung_for_afterwards(
    bell: Bell, ringing: Ringing
) -> None:
    async def store() -> None:
        ringing.begin(NAME, BATCH)
        await asyncio.sleep(0)
        bell.done.append("put")
        await ringing.stored(NAME, BATCH)

    asyncio.run(store())
    assert bell.done == [("announce", BATCH), "put", "stored", ("ring", Hint(NAME))]


def test_a_batch_that_is_not_stored_is_not_rung_for(bell: Bell, ringing: Ringing) -> None:
    async def store() -> None:
        ringing.begin(NAME, BATCH)
        await asyncio.sleep(0)
        ringing.fail(NAME)

    asyncio.run(store())
    assert bell.done == [("announce", BATCH)]


def test_in_the_end_what_was_stored_is_rung_for(
    bell: Bell, ringing: Ringing, background: Background
) -> None:
    bell.announced.clear()
    begun = threading.Event()

    async def store() -> None:
        ringing.begin(NAME, BATCH)
        begun.set()
        await ringing.stored(NAME, BATCH)

    background.spawn(store())
    begun.wait()
    threading.Timer(0.05, bell.announced.set).start()
    ringing.end(background)
    assert bell.done[-3:] == [("ring", Hint(NAME)), "flush", "close"]


def test_a_bell_that_was_never_used_keeps_nobody(
    bell: Bell, ringing: Ringing, background: Background
) -> None:
    ringing.end(background)
    assert bell.done == []
