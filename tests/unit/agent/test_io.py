from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from cloudray.agent.io import Io
from cloudray.store import Get, MemoryStore, Op, Put
from tests.unit.agent.bench import Refusing, Remote


def read(key: str) -> Generator[Op, Any, bytes | None]:
    body: bytes | None = yield Get(key)
    return body


def write(key: str) -> Generator[Op, Any, None]:
    yield Put(key, b"body")


@pytest.fixture
def heard() -> list[Any]:
    return []


def test_a_store_that_answers_at_once_needs_no_loop(heard: list[Any]) -> None:
    io = Io(MemoryStore())
    io.run(write("key"))
    io.run(read("key"), heard.append)
    assert heard == [b"body"]


async def test_a_store_far_away_is_waited_for_in_the_background(heard: list[Any]) -> None:
    io = Io(Remote())
    io.run(read("key"), heard.append)
    assert heard == []
    await io.settle()
    assert heard == [None]


async def test_a_procedure_can_be_awaited() -> None:
    assert await Io(Remote()).do(read("key")) is None


class RefusingRemote(Refusing, Remote):
    """Far away, and full."""


@pytest.mark.parametrize("store", [Refusing(), RefusingRemote()], ids=["inline", "remote"])
async def test_what_the_store_refuses_is_logged_and_told(
    store: Refusing, heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.refused = "key"
    store.inline = not isinstance(store, Remote)
    io = Io(store)
    io.run(write("key"), heard.append, lambda: heard.append("refused"))
    await io.settle()
    assert heard == ["refused"]
    assert "the store refused an operation: Put of key" in caplog.text


@pytest.mark.parametrize("store", [Refusing(), RefusingRemote()], ids=["inline", "remote"])
async def test_a_refusal_that_concerns_nobody_is_only_logged(
    store: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    store.refused = "key"
    store.inline = not isinstance(store, Remote)
    io = Io(store)
    io.run(write("key"))
    await io.settle()
    assert "no space left" in caplog.text


async def test_an_error_in_the_background_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("no such colour")

    io = Io(MemoryStore())
    io.spawn(fail())
    await io.settle()
    assert "no such colour" in caplog.text
    assert "Traceback" in caplog.text


async def test_what_is_under_way_can_be_stopped(
    heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    io = Io(Remote())
    io.run(read("key"), heard.append)
    io.cancel()
    await io.settle()
    await asyncio.sleep(1)
    assert heard == []
    assert caplog.text == ""
