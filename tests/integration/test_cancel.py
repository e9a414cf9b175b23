"""`cancel`: what has not started never does, what runs is interrupted."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import cloudray as ray
from cloudray.exceptions import TaskCancelledError
from tests.integration.clusters import Embedded, wait_until_gone
from tests.integration.gates import LIMIT_S, wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def wait_until(gate: Path, started: Path) -> str:
    started.touch()
    wait_for(gate)
    return "not cancelled"


@ray.remote
def run_until_interrupted(folder: Path) -> str:
    folder.joinpath(f"pid-{os.getpid()}").touch()
    try:
        folder.joinpath("started").touch()
        time.sleep(LIMIT_S)
    except KeyboardInterrupt:
        folder.joinpath("interrupted").touch()
        raise
    return "slept through"


def assert_cancelled(ref: ray.ObjectRef[Any]) -> None:
    with pytest.raises(TaskCancelledError) as raised:
        ray.get(ref)
    assert raised.value.task_id == ref.task_id()


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_running_task_is_interrupted(tmp_path: Path) -> None:
    ref = run_until_interrupted.remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(tmp_path / "interrupted")
    assert ray.get(same.remote("the executor lives")) == "the executor lives"


def test_the_process_of_an_interrupted_task_goes_on(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)
    ref = run_until_interrupted.remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    wait_for(tmp_path / "interrupted")
    assert ray.get([same.remote(number) for number in range(10)]) == list(range(10))
    pid = ray.get(ray.remote(os.getpid).remote())
    assert tmp_path.joinpath(f"pid-{pid}").exists()


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_with_force_the_process_is_killed(tmp_path: Path) -> None:
    @ray.remote
    def ignore_interrupts(folder: Path) -> None:
        folder.joinpath(str(os.getpid())).touch()
        while True:
            try:
                folder.joinpath("started").touch()
                time.sleep(LIMIT_S)
            except KeyboardInterrupt:
                folder.joinpath("ignored").touch()

    ref = ignore_interrupts.remote(tmp_path)
    wait_for(tmp_path / "started")
    (pid,) = (int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    process = psutil.Process(pid)
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    wait_until_gone([process])
    assert not tmp_path.joinpath("ignored").exists()
    assert ray.get(same.remote("others work")) == "others work"


def test_a_task_that_was_killed_for_good_is_not_tried_again(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def run(folder: Path) -> None:
        folder.joinpath(f"run-{os.getpid()}").touch()
        folder.joinpath("started").touch()
        time.sleep(LIMIT_S)

    ref = run.remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(ref, force=True)
    assert ray.get(same.remote("next")) == "next"
    assert len(list(tmp_path.glob("run-*"))) == 1


def test_what_has_not_started_never_does(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)
    gate = tmp_path / "gate"
    first = wait_until.remote(gate, tmp_path / "first")
    second = wait_until.remote(gate, tmp_path / "second")
    third = wait_until.remote(gate, tmp_path / "third")
    ray.cancel(second)
    assert_cancelled(second)
    gate.touch()
    assert ray.get([first, third]) == ["not cancelled", "not cancelled"]
    assert not tmp_path.joinpath("second").exists()


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_what_waits_for_its_arguments_is_cancelled(tmp_path: Path) -> None:
    first = wait_until.remote(tmp_path / "gate", tmp_path / "first")
    second = same.remote(first)
    ray.cancel(second)
    assert_cancelled(second)
    tmp_path.joinpath("gate").touch()
    assert ray.get(first) == "not cancelled"


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_what_was_just_submitted_is_cancelled(tmp_path: Path) -> None:
    refs = [wait_until.remote(tmp_path / "gate", tmp_path / str(n)) for n in range(20)]
    for ref in refs:
        ray.cancel(ref)
    for ref in refs:
        assert_cancelled(ref)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_cancelling_what_is_finished_changes_nothing() -> None:
    ref = same.remote("done")
    ray.get(ref)
    ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert ray.get(ref) == "done"


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_cancelling_a_stored_value_changes_nothing() -> None:
    ref = ray.put("stored")
    ray.cancel(ref)
    assert ray.get(ref) == "stored"


@pytest.mark.usefixtures("cluster")
def test_cancelling_twice_is_cancelling_once(tmp_path: Path) -> None:
    ref = run_until_interrupted.remote(tmp_path)
    wait_for(tmp_path / "started")
    for _ in range(3):
        ray.cancel(ref)
    assert_cancelled(ref)


@pytest.mark.usefixtures("cluster")
def test_every_result_of_a_cancelled_task_is_cancelled(tmp_path: Path) -> None:
    first, second = run_until_interrupted.options(num_returns=2).remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(second)
    assert_cancelled(first)
    assert_cancelled(second)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_cancelled_task_fails_those_that_need_it(tmp_path: Path) -> None:
    ref = run_until_interrupted.remote(tmp_path)
    needing = same.remote(same.remote(ref))
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError) as raised:
        ray.get(needing)
    assert raised.value.task_id == ref.task_id()


@pytest.mark.usefixtures("cluster")
def test_a_get_that_waits_is_told_at_once(tmp_path: Path) -> None:
    ref = run_until_interrupted.remote(tmp_path)
    future = ref.future()
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    assert isinstance(future.exception(), TaskCancelledError)


@pytest.mark.usefixtures("cluster")
def test_a_task_that_waits_for_a_child_is_interrupted_there(tmp_path: Path) -> None:
    @ray.remote
    def parent(folder: Path) -> Any:
        try:
            return ray.get(wait_until.remote(folder / "never", folder / "child"))
        except KeyboardInterrupt:
            folder.joinpath("parent interrupted").touch()
            raise

    ref = parent.remote(tmp_path)
    wait_for(tmp_path / "child")
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(tmp_path / "parent interrupted")


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_the_children_of_a_cancelled_task_are_cancelled_too(tmp_path: Path) -> None:
    @ray.remote
    def parent(folder: Path) -> Any:
        return ray.get(run_until_interrupted.remote(folder))

    ref = parent.remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(tmp_path / "interrupted")


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_task_cancels_its_own_child(tmp_path: Path) -> None:
    @ray.remote
    def parent(folder: Path) -> str:
        child = run_until_interrupted.remote(folder)
        wait_for(folder / "started")
        ray.cancel(child)
        try:
            ray.get(child)
        except TaskCancelledError as error:
            return str(error.task_id == child.task_id())
        return "not cancelled"

    assert ray.get(parent.remote(tmp_path)) == "True"
    wait_for(tmp_path / "interrupted")


@pytest.mark.usefixtures("cluster")
def test_a_task_can_ask_whether_it_is_cancelled(tmp_path: Path) -> None:
    @ray.remote
    def ask(folder: Path) -> None:
        try:
            folder.joinpath(f"before-{ray.get_runtime_context().is_canceled()}").touch()
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            folder.joinpath(f"after-{ray.get_runtime_context().is_canceled()}").touch()

    ref = ask.remote(tmp_path)
    wait_for(tmp_path / "before-False")
    ray.cancel(ref)
    wait_for(tmp_path / "after-True")
    assert_cancelled(ref)


@pytest.mark.usefixtures("cluster")
def test_a_coroutine_is_interrupted_where_it_waits(tmp_path: Path) -> None:
    @ray.remote
    async def nap(folder: Path) -> None:
        import asyncio

        try:
            folder.joinpath("started").touch()
            await asyncio.sleep(LIMIT_S)
        finally:
            folder.joinpath("ended").touch()

    ref = nap.remote(tmp_path)
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(tmp_path / "ended")


@pytest.mark.usefixtures("cluster")
def test_cancelling_at_any_moment_harms_nobody_else() -> None:
    """While it starts, waits, prints, submits or ends: what it shares with others stays whole."""

    @ray.remote
    def busy() -> int:
        total = 0
        for number in range(20):
            total += ray.get(same.remote(number))
            total += len(ray.get(ray.put([number])))
        return total

    rng = random.Random(7)
    cancelled = 0
    for _ in range(50):
        refs = [busy.remote() for _ in range(2)]
        others = [same.remote(number) for number in range(5)]
        time.sleep(rng.uniform(0, 0.04))
        victim = rng.choice(refs)
        ray.cancel(victim)
        for ref in refs:
            try:
                assert ray.get(ref) == 210
            except TaskCancelledError:
                assert ref is victim
                cancelled += 1
        assert ray.get(others) == list(range(5))
    assert cancelled >= 10


def test_cancel_refuses_what_is_no_ref() -> None:
    with pytest.raises(TypeError, match=r"only supported for object refs. Got: <class 'int'>"):
        ray.cancel(3)  # type: ignore[arg-type]
