"""`timeout_s`: a task that runs longer is stopped, whatever it does, and nobody else notices."""

from __future__ import annotations

import ctypes
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import cloudray as ray
from cloudray.exceptions import TaskCancelledError, TaskTimeoutError
from tests.integration.clusters import Embedded, wait_until_gone
from tests.integration.gates import LIMIT_S, count, wait_for

#: Short enough to wait for.
SOON_S = 0.2


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def nap(seconds: float, folder: Path | None = None) -> str:
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        if folder is not None:
            folder.joinpath("interrupted").touch()
        raise
    return "slept"


def error_of(ref: ray.ObjectRef[Any]) -> TaskTimeoutError:
    with pytest.raises(TaskTimeoutError) as raised:
        ray.get(ref)
    return raised.value


@pytest.mark.usefixtures("cluster")
def test_a_task_that_ends_in_time_has_its_result() -> None:
    assert ray.get(nap.options(timeout_s=LIMIT_S).remote(0)) == "slept"


@pytest.mark.usefixtures("cluster")
def test_a_task_that_runs_longer_is_interrupted_and_fails(tmp_path: Path) -> None:
    ref = nap.options(timeout_s=SOON_S, name="long nap").remote(LIMIT_S, tmp_path)
    error = error_of(ref)
    assert tmp_path.joinpath("interrupted").exists()
    assert (error.task_name, error.task_id) == ("long nap", ref.task_id())
    assert (error.timeout_s, error.attempt, error.killed) == (SOON_S, 1, False)
    assert "time.sleep(seconds)" in error.traceback_str
    assert f"Task long nap ({ref.task_id()}) was stopped after 0.2 s" in str(error)
    assert isinstance(error, TimeoutError)
    assert isinstance(ref.future().exception(), TaskTimeoutError)


def test_its_process_goes_on(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)
    pid = ray.get(ray.remote(os.getpid).remote())
    error_of(nap.options(timeout_s=SOON_S).remote(LIMIT_S))
    assert ray.get(ray.remote(os.getpid).remote()) == pid


def sleep_natively() -> None:
    """Keep the interpreter's lock: nothing else of this process runs."""
    ctypes.PyDLL(None).pause()


def ignore_interrupts() -> None:
    while True:
        try:
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            continue


@pytest.mark.parametrize("go_on", [sleep_natively, ignore_interrupts])
def test_what_does_not_heed_interrupts_is_killed(
    own_cluster: Callable[..., Embedded], tmp_path: Path, go_on: Callable[[], None]
) -> None:
    own_cluster(num_cpus=1)

    # Long enough for the task to get where it heeds nothing, on a busy machine too.
    @ray.remote(timeout_s=10 * SOON_S)
    def go_on_for_ever() -> None:
        tmp_path.joinpath(str(os.getpid())).touch()
        go_on()

    neighbours = [same.remote(number) for number in range(10)]
    error = error_of(go_on_for_ever.remote())
    assert error.killed
    assert "its process was killed" in str(error)
    assert ray.get(neighbours) == list(range(10))
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    assert not psutil.pid_exists(pid)
    assert ray.get(same.remote("next")) == "next"


@pytest.mark.usefixtures("cluster")
def test_waiting_for_others_counts(tmp_path: Path) -> None:
    @ray.remote(timeout_s=SOON_S)
    def parent() -> Any:
        return ray.get(nap.remote(LIMIT_S, tmp_path))

    error = error_of(parent.remote())
    assert "ray.get(nap.remote(LIMIT_S, tmp_path))" in error.traceback_str
    # What it has started goes with it.
    wait_for(tmp_path / "interrupted")


def test_waiting_for_a_slot_does_not_count(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def hold(gate: Path) -> None:
        wait_for(gate)

    gate = tmp_path / "gate"
    holding = hold.remote(gate)
    waiting = [same.options(timeout_s=SOON_S).remote(number) for number in range(3)]
    error_of_holding = hold.options(timeout_s=SOON_S, num_cpus=0).remote(gate)
    # That ran out of time meanwhile, so the others have waited longer than theirs.
    error_of(error_of_holding)
    gate.touch()
    assert ray.get([holding, *waiting]) == [None, 0, 1, 2]


@pytest.mark.usefixtures("cluster")
def test_a_coroutine_is_stopped_too() -> None:
    @ray.remote(timeout_s=SOON_S)
    async def nap_lightly() -> None:
        import asyncio

        await asyncio.sleep(LIMIT_S)

    assert not error_of(nap_lightly.remote()).killed


@pytest.mark.usefixtures("cluster")
def test_a_task_that_returns_in_spite_of_the_interrupt_fails_all_the_same() -> None:
    @ray.remote(timeout_s=SOON_S)
    def shrug() -> str:
        try:
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            return "whatever"
        return "slept"

    error_of(shrug.remote())


@pytest.mark.usefixtures("cluster")
def test_what_it_raises_instead_is_shown() -> None:
    @ray.remote(timeout_s=SOON_S)
    def complain() -> None:
        try:
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            raise ValueError("not done yet") from None

    assert "ValueError: not done yet" in error_of(complain.remote()).traceback_str


@pytest.mark.usefixtures("cluster")
def test_it_is_not_retried_by_default(tmp_path: Path) -> None:
    @ray.remote(timeout_s=SOON_S)
    def run(counter: Path) -> None:
        count(counter)
        time.sleep(LIMIT_S)

    error_of(run.remote(tmp_path / "runs"))
    error_of(run.options(retry_exceptions=[ValueError]).remote(tmp_path / "runs"))
    assert tmp_path.joinpath("runs").stat().st_size == 2


@pytest.mark.parametrize("retry", [True, [TaskTimeoutError], [ValueError, TimeoutError]])
@pytest.mark.usefixtures("cluster")
def test_it_is_retried_where_exceptions_like_it_are(tmp_path: Path, retry: Any) -> None:
    @ray.remote(timeout_s=SOON_S, retry_exceptions=retry, max_retries=1)
    def run(counter: Path, lazy: int) -> int:
        runs = count(counter)
        if runs <= lazy:
            time.sleep(LIMIT_S)
        return runs

    assert ray.get(run.remote(tmp_path / "once", 1)) == 2
    error = error_of(run.remote(tmp_path / "always", 5))
    assert "attempt 2 of 2" in str(error)


@pytest.mark.usefixtures("cluster")
def test_those_that_need_it_fail_likewise() -> None:
    ref = nap.options(timeout_s=SOON_S).remote(LIMIT_S)
    assert error_of(same.remote(same.remote(ref))).task_id == ref.task_id()


@pytest.mark.usefixtures("cluster")
def test_a_task_may_catch_that_of_another() -> None:
    @ray.remote
    def parent() -> str:
        try:
            ray.get(nap.options(timeout_s=SOON_S).remote(LIMIT_S))
        except TimeoutError as error:
            return type(pickle.loads(pickle.dumps(error))).__name__
        return "slept"

    assert ray.get(parent.remote()) == "TaskTimeoutError"


@pytest.mark.usefixtures("cluster")
def test_a_cancelled_task_is_cancelled_not_late(tmp_path: Path) -> None:
    ref = nap.options(timeout_s=LIMIT_S).remote(LIMIT_S, tmp_path)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)


@pytest.mark.usefixtures("cluster")
def test_at_any_moment_a_task_has_one_end_and_neighbours_are_unharmed() -> None:
    """It ends about when its time does: either is right, and nothing else may come of it."""
    ends = {"slept": 0, "late": 0}
    for number in range(60):
        refs = [nap.options(timeout_s=0.02).remote(0.015 + 0.0002 * number) for _ in range(2)]
        others = [same.remote(other) for other in range(5)]
        for ref in refs:
            try:
                ends[ray.get(ref)] += 1
            except TaskTimeoutError:
                ends["late"] += 1
        assert ray.get(others) == list(range(5))
    assert sum(ends.values()) == 120
    assert ends["late"] > 0


def test_a_process_that_was_killed_leaves_nothing(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote(timeout_s=SOON_S)
    def start_and_ignore() -> None:
        import subprocess

        child = subprocess.Popen(["sleep", "1000"])  # noqa: S607 - as a task would
        tmp_path.joinpath(str(child.pid)).touch()
        while True:
            try:
                time.sleep(LIMIT_S)
            except KeyboardInterrupt:
                continue

    ref = start_and_ignore.remote()
    while not list(tmp_path.iterdir()):
        time.sleep(0.002)
    (child,) = (psutil.Process(int(path.name)) for path in tmp_path.iterdir())
    assert error_of(ref).killed
    wait_until_gone([child])
