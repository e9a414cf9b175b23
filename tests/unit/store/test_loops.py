from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from cloudray.store.loops import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("cloudray-test")
    yield loop
    loop.close()


async def name_of_thread() -> str:
    return threading.current_thread().name


def test_work_runs_on_its_own_thread(loop: LoopThread) -> None:
    assert loop.run(name_of_thread()) == "cloudray-test"


def test_work_may_be_awaited_on_another_loop(loop: LoopThread) -> None:
    assert asyncio.run(loop.run_async(name_of_thread())) == "cloudray-test"


def test_an_error_is_raised_where_the_result_is_wanted(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("tea")

    with pytest.raises(KeyError, match="tea"):
        loop.run(fail())
    with pytest.raises(KeyError, match="tea"):
        asyncio.run(loop.run_async(fail()))


def test_a_cancellation_reaches_the_work(loop: LoopThread) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def cancel() -> None:
        task = asyncio.ensure_future(loop.run_async(work()))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert cancelled.wait(10)


def test_it_may_be_closed_twice() -> None:
    loop = LoopThread("cloudray-test")
    loop.close()
    loop.close()
    assert "cloudray-test" not in {thread.name for thread in threading.enumerate()}


def test_what_runs_has_been_cancelled_once_the_loop_is_closed() -> None:
    loop = LoopThread("cloudray-test")
    began, ended = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    tasks = []
    loop.call_soon(lambda: tasks.append(asyncio.get_running_loop().create_task(wait_for_ever())))
    assert began.wait(60)
    loop.close()
    assert ended.is_set()
