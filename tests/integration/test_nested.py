"""Tasks that submit tasks: to any depth, from threads, from async code, on one CPU."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.clusters import Embedded
from tests.integration.gates import meet, wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def touch(path: Path) -> None:
    path.touch()


@ray.remote
def fib(number: int) -> int:
    if number < 2:
        return number
    return sum(ray.get([fib.remote(number - 1), fib.remote(number - 2)]))


@ray.remote
def descend(levels: int) -> list[int]:
    if levels == 0:
        return []
    return [levels, *ray.get(descend.remote(levels - 1))]


def test_a_parent_and_its_child_finish_on_one_cpu(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)
    assert ray.get(descend.remote(1)) == [1]


def test_tasks_go_as_deep_as_they_like_on_one_cpu(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)
    assert ray.get(descend.remote(8)) == [8, 7, 6, 5, 4, 3, 2, 1]


def test_waiting_lends_the_cpu_as_getting_does(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def parent() -> Any:
        refs = [same.remote(number) for number in range(5)]
        ready, rest = ray.wait(refs, num_returns=5)
        return ray.get(ready), rest

    assert ray.get(parent.remote()) == ([0, 1, 2, 3, 4], [])


def test_parents_that_all_wait_for_children_finish(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=2)

    @ray.remote
    def parent(number: int) -> int:
        return sum(ray.get([same.remote(number), same.remote(1)]))

    assert ray.get([parent.remote(number) for number in range(20)]) == list(range(1, 21))


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_tree_of_tasks_gives_what_plain_recursion_gives() -> None:
    assert ray.get(fib.remote(6)) == 8


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_task_submits_many_tasks() -> None:
    @ray.remote
    def fan_out(width: int) -> int:
        return sum(ray.get([same.remote(number) for number in range(width)]))

    assert ray.get(fan_out.remote(2000)) == 1999000


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_child_starts_while_its_parent_computes(tmp_path: Path) -> None:
    @ray.remote
    def parent(folder: Path) -> str:
        _ = touch.remote(folder / "child")
        # Neither `get` nor the end of the task: nothing but time sends the child on its way.
        wait_for(folder / "child")
        return "seen"

    assert ray.get(parent.remote(tmp_path)) == "seen"


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_children_run_on_after_their_parent(tmp_path: Path) -> None:
    @ray.remote
    def leave_one(folder: Path) -> Any:
        @ray.remote
        def orphan() -> str:
            wait_for(folder / "gate")
            return "finished"

        return [orphan.remote()]

    (child,) = ray.get(leave_one.remote(tmp_path))
    tmp_path.joinpath("gate").touch()
    assert ray.get(child) == "finished"


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_children_take_refs_and_values_of_their_parent() -> None:
    @ray.remote
    def add(*numbers: int) -> int:
        return sum(numbers)

    @ray.remote
    def parent(given: int, box: list[ray.ObjectRef[int]]) -> int:
        stored = ray.put(1000)
        partial = add.remote(given, box[0])
        return ray.get(add.remote(partial, stored, ray.put(10_000)))

    refs = [same.remote(1), same.remote(10)]
    assert ray.get(parent.remote(refs[0], [refs[1]])) == 11_011


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_task_calls_a_remote_function_that_it_was_given() -> None:
    @ray.remote
    def apply(function: Any, *args: Any) -> Any:
        return ray.get(function.options(num_cpus=0.5).remote(*args))

    assert ray.get(apply.remote(same, "given")) == "given"


def test_threads_of_a_task_submit_and_wait(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def parent() -> list[int]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda number: ray.get(same.remote(number)), range(40)))

    assert ray.get(parent.remote()) == list(range(40))


def test_a_thread_that_outlives_its_task_goes_on(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def leave_thread(folder: Path) -> list[Any]:
        def late() -> None:
            wait_for(folder / "gate")
            found = ray.get([same.remote(number) for number in range(3)])
            folder.joinpath(f"found-{sum(found)}").touch()

        early = same.remote("early")
        threading.Thread(target=late).start()
        return [early]

    (early,) = ray.get(leave_thread.remote(tmp_path))
    # The same process runs something else meanwhile.
    assert ray.get([same.remote("between"), early]) == ["between", "early"]
    tmp_path.joinpath("gate").touch()
    wait_for(tmp_path / "found-3")


def test_async_tasks_await_their_children(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    async def parent() -> list[int]:
        first = await same.remote(1)
        return [first, *await asyncio.gather(*[same.remote(number) for number in range(2, 5)])]

    assert ray.get(parent.remote()) == [1, 2, 3, 4]


def test_a_future_that_nobody_waited_for_does_no_harm(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def wait_until(gate: Path) -> None:
        wait_for(gate)

    @ray.remote
    def forget(box: list[ray.ObjectRef[Any]]) -> int:
        box[0].future()
        return os.getpid()

    slow = wait_until.options(num_cpus=0).remote(tmp_path / "gate")
    ray.get([forget.remote([slow]) for _ in range(3)])
    # The slot is lent as ever afterwards: else these would wait for each other for ever.
    assert ray.get(descend.remote(3)) == [3, 2, 1]
    tmp_path.joinpath("gate").touch()
    ray.get(slow)
    assert ray.get(descend.remote(3)) == [3, 2, 1]


def test_a_task_that_gave_up_waiting_leaves_the_next_one_in_peace(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def wait_until(gate: Path) -> str:
        wait_for(gate)
        return gate.name

    @ray.remote
    def look(box: list[ray.ObjectRef[str]], timeout_s: float | None) -> str:
        try:
            return ray.get(box[0], timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return "not yet"

    slow = wait_until.options(num_cpus=0).remote(tmp_path / "gate")
    assert ray.get(look.remote([slow], 0.01)) == "not yet"
    later = look.remote([slow], None)
    tmp_path.joinpath("gate").touch()
    assert ray.get(later) == "gate"
    assert ray.get(look.remote([slow], None)) == "gate"


def test_two_tasks_run_on_two_cpus_though_a_third_waits(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=2)

    @ray.remote
    def meet_others(name: str, *others: str) -> str:
        meet(tmp_path, name, *others)
        return name

    @ray.remote
    def parent() -> list[str]:
        return ray.get([meet_others.remote("a", "b"), meet_others.remote("b", "a")])

    assert ray.get(parent.remote()) == ["a", "b"]


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_the_errors_of_children_reach_the_driver() -> None:
    @ray.remote
    def fail() -> None:
        raise LookupError("deep down")

    @ray.remote
    def parent() -> None:
        ray.get(fail.remote())

    with pytest.raises(LookupError, match="deep down"):
        ray.get(parent.remote())


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_task_knows_the_cluster_as_the_driver_does() -> None:
    @ray.remote
    def facts() -> tuple[Any, bool]:
        return ray.cluster_resources(), ray.is_initialized()

    assert ray.get(facts.remote()) == (ray.cluster_resources(), True)


@pytest.mark.usefixtures("cluster")
def test_init_in_a_task_says_that_there_is_a_cluster() -> None:
    @ray.remote
    def init_again() -> None:
        ray.init(ignore_reinit_error=True)
        ray.init()

    with pytest.raises(RuntimeError, match="twice by accident"):
        ray.get(init_again.remote())


@pytest.mark.usefixtures("cluster")
def test_a_process_forked_from_a_task_is_told_that_it_is_alone() -> None:
    def try_it(results: Any) -> None:
        try:
            ray.get(same.remote(1))
        except RuntimeError as error:
            results.put(str(error))

    @ray.remote
    def fork() -> str:
        context = multiprocessing.get_context("fork")
        results: Any = context.Queue()
        child = context.Process(target=try_it, args=(results,))
        child.start()
        said: str = results.get()
        child.join()
        return said

    assert "forked from a task" in ray.get(fork.remote())
    assert ray.get(same.remote("all is well")) == "all is well"
