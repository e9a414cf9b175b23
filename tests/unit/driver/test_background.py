from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from cloudray.driver.background import Background, Errand
from tests.unit.driver.gated import becomes

LIMIT_S = 60.0


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


def test_work_runs_while_its_caller_goes_on(background: Background) -> None:
    done = threading.Event()

    async def work() -> None:
        done.set()

    assert background.spawn(work())
    assert done.wait(LIMIT_S)


def test_after_its_end_nothing_runs_and_who_asks_for_it_is_told(background: Background) -> None:
    ran = []

    async def work() -> None:
        ran.append(True)

    background.close()
    assert not background.spawn(work())
    assert ran == []


def test_what_runs_at_its_end_is_cancelled(background: Background) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    background.spawn(work())
    assert begun.wait(LIMIT_S)
    background.close()
    assert cancelled.is_set()


def test_an_errand_is_run_by_one_at_a_time(background: Background) -> None:
    errand = Errand(background)
    goes_on = threading.Event()
    begun: list[int] = []
    over: list[bool] = []

    async def work() -> None:
        begun.append(len(begun))
        await asyncio.to_thread(goes_on.wait, LIMIT_S)

    for _ in range(3):
        errand.begin(work, lambda: over.append(errand.busy))
    assert errand.busy
    goes_on.set()
    # When its end is told of, the next may begin.
    assert becomes(lambda: over == [False])
    assert begun == [0]
    errand.begin(work)
    assert becomes(lambda: begun == [0, 1] and not errand.busy)


def test_an_errand_after_the_end_is_not_under_way(background: Background) -> None:
    errand = Errand(background)

    async def work() -> None:
        raise AssertionError

    background.close()
    errand.begin(work)
    assert not errand.busy
