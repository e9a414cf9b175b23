"""Executors that die: what that costs, and what the caller is told."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

import cloudray as ray
from cloudray.exceptions import RuntimeEnvSetupError, WorkerCrashedError
from tests.integration.clusters import Embedded, wait_until_gone
from tests.integration.gates import count, wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(7)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_politely() -> None:
    sys.exit(7)


@ray.remote
def die_first(counter: Path, times: int, how: Callable[[], None]) -> int:
    """Die so many times; then say how often it was run."""
    run = count(counter)
    if run <= times:
        how()
    return run


@ray.remote
def die(how: Callable[[], None]) -> None:
    how()


def crash_of(ref: ray.ObjectRef[Any]) -> WorkerCrashedError:
    with pytest.raises(WorkerCrashedError) as raised:
        ray.get(ref)
    return raised.value


@pytest.mark.parametrize("how", [segfault, leave, kill, exit_politely])
@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_death_costs_a_retry(tmp_path: Path, how: Callable[[], None]) -> None:
    assert ray.get(die_first.remote(tmp_path / "runs", 1, how)) == 2


@pytest.mark.parametrize(
    ("how", "signal_name", "exit_code", "message"),
    [
        (segfault, "SIGSEGV", -signal.SIGSEGV, "killed by SIGSEGV"),
        (kill, "SIGKILL", -signal.SIGKILL, "killed by SIGKILL"),
        (leave, None, 7, "left with exit code 7"),
        (exit_politely, None, 7, "left with exit code 7"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_the_error_says_how_the_process_died(
    how: Callable[[], None],
    signal_name: str | None,
    exit_code: int,
    message: str,
) -> None:
    error = crash_of(die.options(max_retries=0).remote(how))
    assert (error.signal_name, error.exit_code) == (signal_name, exit_code)
    assert message in str(error)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_the_error_says_which_task_and_which_attempt(tmp_path: Path) -> None:
    dying = die_first.options(max_retries=1, name="fragile")
    ref = dying.remote(tmp_path / "runs", 9, leave)
    error = crash_of(ref)
    assert count(tmp_path / "runs") == 3
    assert (error.task_name, error.task_id) == ("fragile", ref.task_id())
    assert (error.attempt, error.max_attempts) == (2, 2)
    assert "attempt 2 of 2" in str(error)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_the_error_has_the_last_lines_of_the_task_and_of_no_other() -> None:
    @ray.remote
    def chat(name: str) -> None:
        print(f"{name} is fine")  # noqa: T201

    @ray.remote(max_retries=0)
    def last_words() -> None:
        for number in range(30):
            print(f"line {number}")  # noqa: T201
        print("no newline", end="", flush=True)  # noqa: T201
        print("to stderr", file=sys.stderr)  # noqa: T201
        os.kill(os.getpid(), signal.SIGKILL)

    ray.get([chat.remote(f"neighbour {number}") for number in range(6)])
    error = crash_of(last_words.remote())
    assert "line 29" in error.last_lines
    assert {"no newline", "to stderr"} <= set(error.last_lines)
    assert not any("neighbour" in line for line in error.last_lines)
    assert "line 29" in str(error)


@pytest.mark.usefixtures("cluster")
def test_the_last_lines_of_one_stream_push_out_none_of_the_other() -> None:
    @ray.remote(max_retries=0)
    def last_words() -> None:
        print("to stderr", file=sys.stderr, flush=True)  # noqa: T201
        for number in range(30):
            print(f"line {number}", flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGKILL)

    lines = crash_of(last_words.remote()).last_lines
    assert {"line 29", "to stderr"} <= set(lines)


@pytest.mark.usefixtures("cluster")
def test_the_last_lines_include_those_of_native_code() -> None:
    @ray.remote(max_retries=0)
    def abort() -> None:
        os.write(2, b"free(): invalid pointer\n")
        os.abort()

    error = crash_of(abort.remote())
    assert "free(): invalid pointer" in error.last_lines
    assert error.signal_name == "SIGABRT"


@pytest.mark.usefixtures("cluster")
def test_the_last_lines_of_a_crash_in_native_code_say_where_it_was() -> None:
    error = crash_of(die.options(max_retries=0).remote(segfault))
    assert any("Segmentation fault" in line for line in error.last_lines)
    assert any("in segfault" in line for line in error.last_lines)


@pytest.mark.usefixtures("cluster")
def test_the_error_says_where_the_log_is() -> None:
    @ray.remote(max_retries=0)
    def last_words() -> None:
        print("remember me")  # noqa: T201
        os._exit(1)

    error = crash_of(last_words.remote())
    assert error.log in str(error)
    folder = Path(urlsplit(error.log).path)
    assert any(b"remember me" in piece.read_bytes() for piece in folder.iterdir())


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_death_costs_the_neighbours_nothing(tmp_path: Path) -> None:
    """Also those with the same executor, in the same batch, that must not run twice."""

    @ray.remote
    def once(number: int) -> int:
        assert count(tmp_path / str(number)) == 1
        return number

    ray.get([once.options(num_returns=1).remote(number) for number in range(100, 120)])
    refs: list[ray.ObjectRef[Any]] = [once.remote(number) for number in range(50)]
    refs.insert(25, die_first.remote(tmp_path / "deaths", 2, kill))
    assert ray.get(refs) == [*range(25), 3, *range(25, 50)]


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_poison_task_fails_and_the_others_finish() -> None:
    refs = [same.remote(number) for number in range(20)]
    poison = die.options(max_retries=2).remote(kill)
    refs += [same.remote(number) for number in range(20, 40)]
    assert crash_of(poison).attempt == 3
    assert ray.get(refs) == list(range(40))


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_without_retries_a_task_runs_at_most_once(tmp_path: Path) -> None:
    refs = [
        die_first.options(max_retries=0).remote(tmp_path / str(number), 9, leave)
        for number in range(3)
    ]
    for number, ref in enumerate(refs):
        crash_of(ref)
        assert count(tmp_path / str(number)) == 2


@pytest.mark.usefixtures("cluster")
def test_endless_retries_do_not_end(tmp_path: Path) -> None:
    ref = die_first.options(max_retries=-1).remote(tmp_path / "runs", 5, leave)
    assert ray.get(ref) == 6


@pytest.mark.usefixtures("cluster")
def test_deaths_and_exceptions_use_up_the_same_retries(tmp_path: Path) -> None:
    @ray.remote(max_retries=2, retry_exceptions=True)
    def raise_then_die() -> None:
        if count(tmp_path / "runs") == 1:
            raise ValueError
        os._exit(1)

    error = crash_of(raise_then_die.remote())
    assert count(tmp_path / "runs") == 4
    assert (error.attempt, error.max_attempts) == (3, 3)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_crash_fails_those_that_need_the_result() -> None:
    needing = same.remote(same.remote(die.options(max_retries=0).remote(kill)))
    assert crash_of(needing).task_name == "die"


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_task_sees_the_crash_of_its_child() -> None:
    @ray.remote
    def parent() -> str | None:
        try:
            ray.get(die.options(max_retries=0).remote(kill))
        except WorkerCrashedError as error:
            return error.signal_name
        return "nothing happened"

    assert ray.get(parent.remote()) == "SIGKILL"


@pytest.mark.usefixtures("cluster")
def test_the_children_of_a_run_that_died_are_not_taken_for_those_of_the_next(
    tmp_path: Path,
) -> None:
    @ray.remote
    def child(run: int) -> int:
        return run

    @ray.remote
    def parent() -> int:
        run = count(tmp_path / "runs")
        ref = child.remote(run)
        ray.wait([ref])
        if run == 1:
            os._exit(1)
        return ray.get(ref)

    assert ray.get(parent.remote()) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_what_a_dead_executor_had_started_ends_with_it(tmp_path: Path) -> None:
    @ray.remote(max_retries=0)
    def start_and_die(folder: Path) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(command)
        folder.joinpath(str(child.pid)).touch()
        folder.joinpath("started").touch()
        wait_for(folder / "seen")
        kill()

    ref = start_and_die.remote(tmp_path)
    wait_for(tmp_path / "started")
    (pid,) = (int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    child = psutil.Process(pid)
    tmp_path.joinpath("seen").touch()
    crash_of(ref)
    wait_until_gone([child])


def test_an_executor_that_dies_between_tasks_costs_nothing(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    cluster = own_cluster(num_cpus=1)
    ray.get(same.remote(1))
    executors = cluster.executors()
    assert executors
    for executor in executors:
        executor.kill()
    wait_until_gone(executors)
    assert ray.get(die_first.options(max_retries=0).remote(tmp_path / "runs", 0, kill)) == 1


def test_executors_killed_at_any_moment_lose_nothing(
    own_cluster: Callable[..., Embedded],
) -> None:
    cluster = own_cluster(num_cpus=2, log_to_driver=False)

    @ray.remote(max_retries=-1)
    def leaf(number: int) -> int:
        time.sleep(0.001)
        return number

    @ray.remote(max_retries=-1)
    def node(number: int) -> int:
        stored = ray.put(number)
        return sum(ray.get([leaf.remote(other) for other in range(5)])) + ray.get(stored)

    rng = random.Random(7)
    over = threading.Event()
    killed: list[int] = []

    def kill_some() -> None:
        while not over.wait(rng.uniform(0, 0.04)):
            executors = cluster.executors()
            if executors:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim = rng.choice(executors)
                    victim.kill()
                    killed.append(victim.pid)

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        while len(killed) < 40:
            refs = [node.remote(number) for number in range(10)]
            refs += [leaf.remote(number) for number in range(100)]
            assert ray.get(refs) == [*range(10, 20), *range(100)]
    finally:
        over.set()
        killer.join()


@pytest.mark.usefixtures("cluster")
def test_executors_that_cannot_start_say_why() -> None:
    broken = same.options(runtime_env={"env_vars": {"PYTHONHOME": "/nowhere"}})
    with pytest.raises(RuntimeEnvSetupError, match="No module named 'encodings'"):
        ray.get(broken.remote(1))


@pytest.mark.usefixtures("cluster")
def test_a_task_whose_forked_child_leaves_by_returning_runs_once(tmp_path: Path) -> None:
    @ray.remote
    def fork() -> int:
        if os.fork() == 0:
            return -1
        return count(tmp_path / "parents")

    assert sorted(ray.get([fork.remote() for _ in range(3)])) == [1, 2, 3]
