from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from cloudray.agent.io import Io
from cloudray.agent.rounds import Rounds
from cloudray.store import MemoryStore, StoreError

PERIOD_S = 10.0


async def beginnings(count: int, work: Callable[[], Any]) -> list[float]:
    """When the first rounds of some work began, in periods."""
    loop = asyncio.get_running_loop()
    began_s: list[float] = []
    enough = asyncio.Event()

    def begin() -> Any:
        began_s.append(loop.time())
        if len(began_s) == count:
            enough.set()
        return work()

    rounds = Rounds(Io(MemoryStore()), loop.time, Random(1))
    going = loop.create_task(rounds.every(PERIOD_S, begin))
    await enough.wait()
    going.cancel()
    return [(moment_s - began_s[0]) / PERIOD_S for moment_s in began_s]


async def test_work_begins_once_in_a_period_however_long_it_takes() -> None:
    began = await beginnings(5, lambda: asyncio.sleep(0.8 * PERIOD_S))
    assert began == pytest.approx([0, 1, 2, 3, 4], abs=0.4)


async def test_work_that_takes_longer_than_a_period_begins_again_at_once() -> None:
    began = await beginnings(5, lambda: asyncio.sleep(3 * PERIOD_S))
    assert began == pytest.approx([0, 3, 6, 9, 12])


@pytest.mark.parametrize("error", [StoreError("no permission"), ValueError("a mistake")])
async def test_an_error_is_logged_and_costs_one_round(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        await beginnings(3, fail)
    assert len(caplog.records) == 3
