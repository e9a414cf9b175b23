from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from cloudray.store.threads import in_thread


def test_a_call_that_takes_long_runs_beside_the_loop() -> None:
    async def name_of_thread() -> str:
        return (await in_thread(threading.current_thread)).name

    assert asyncio.run(name_of_thread()) != threading.current_thread().name


def test_its_arguments_and_its_result_are_passed_on() -> None:
    assert asyncio.run(in_thread(sorted, [2, 1], reverse=True)) == [2, 1]


def test_when_pools_take_nothing_any_more_the_call_is_made_all_the_same() -> None:
    async def call_at_the_end() -> str:
        pool = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(pool)
        pool.shutdown()
        return (await in_thread(threading.current_thread)).name

    assert asyncio.run(call_at_the_end()) == threading.current_thread().name
