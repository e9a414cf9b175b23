"""Embedded clusters where there is nothing of what only Linux has: a Mac, as far as we can tell."""

from __future__ import annotations

import os
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.chaos.family import Family, runs, wait_until
from tests.compat.switching import switch

pytestmark = pytest.mark.usefixtures("variables")

Start: TypeAlias = Callable[[str], Family]


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Those of a Mac: its folder for temporary files is a link, and its path as long as there."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:
        real = Path(short) / "private"
        real.mkdir()
        temp = Path(short) / ("T" * (48 - len(short) - 1))
        temp.symlink_to(real)
        yield switch(tmp_path / "site", "macos") | {"TMPDIR": str(temp)}


@pytest.fixture
def start(tmp_path: Path, variables: dict[str, str]) -> Iterator[Start]:
    """Start a program on a Mac; in the end nothing of it is left."""
    families: list[Family] = []

    def start(program: str) -> Family:
        families.append(Family(textwrap.dedent(program), tmp_path, variables))
        return families[-1].__enter__()

    yield start
    for family in families:
        family.__exit__(None, None, None)


def run(start: Start, program: str) -> str:
    """Run a program to its end, and check that nothing of it is left."""
    family = start(program)
    out = family.run()
    family.check_nothing_is_left()
    return out


def test_the_processes_of_a_cluster_have_nothing_of_linux(start: Start) -> None:
    program = """
    import socket
    from cloudray import platform

    @ray.remote
    def look():
        try:
            open("/proc/self/stat")
        except FileNotFoundError:
            return os.getppid(), hasattr(socket, "SOCK_SEQPACKET"), platform.capabilities

    def own():
        return hasattr(socket, "SOCK_SEQPACKET"), platform.capabilities

    context = ray.init(num_cpus=1)
    parent, *facts = ray.get(look.remote())
    # An executor is a child of its agent: there is no zygote.
    print(parent == ray.nodes()[0]["pid"], tuple(facts) == own(), own()[0], own()[1].shared_memory)
    print(context["address"].startswith("file://" + os.environ["TMPDIR"]))
    """
    assert run(start, program) == "True True False None\nTrue\n"


def test_init_remote_get_put_wait_and_shutdown_work(start: Start) -> None:
    program = """
    ray.init(num_cpus=2)

    @ray.remote
    def add(first, second):
        return first + second

    total = add.remote(0, 0)
    for number in range(100):
        total = add.remote(total, number)
    large = ray.put(bytes(5_000_000))
    ready, rest = ray.wait([total, add.remote(large, large)], num_returns=2)
    print(ray.get(total), len(ready), len(rest), len(ray.get(ready[1])))
    ray.shutdown()
    print(ray.is_initialized())
    """
    assert run(start, program) == "4950 2 0 10000000\nFalse\n"


def test_the_death_of_an_executor_is_seen(start: Start) -> None:
    program = """
    @ray.remote(max_retries=1)
    def die_once(path):
        if not os.path.exists(path):
            pathlib.Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    @ray.remote(max_retries=0)
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    ray.init(num_cpus=1)
    print(ray.get(die_once.remote(os.environ["TMPDIR"] + "/begun")))
    try:
        ray.get(die.remote())
    except ray.exceptions.WorkerCrashedError as error:
        print("SIGKILL" in str(error))
    """
    assert run(start, program) == "alive\nTrue\n"


def test_a_running_task_can_be_cancelled(start: Start) -> None:
    program = """
    ray.init(num_cpus=1)
    ref = begin_all(1)[0]
    ray.cancel(ref)
    try:
        ray.get(ref)
    except ray.exceptions.TaskCancelledError:
        print(ray.get(sleep.remote(0)))
    """
    assert run(start, program) == "None\n"


def test_variables_that_are_read_at_the_start_are_there(start: Start) -> None:
    program = """
    @ray.remote(runtime_env={"env_vars": {"TZ": "Asia/Tokyo", "COLOUR": "green"}})
    def look():
        return time.tzname[0], os.environ["COLOUR"]

    ray.init(num_cpus=1)
    print(*ray.get(look.remote()))
    """
    assert run(start, program) == "JST green\n"


def test_clusters_come_and_go(start: Start) -> None:
    program = """
    for _ in range(3):
        ray.init(num_cpus=1)
        print(ray.get(sleep.remote(0)))
        ray.shutdown()
    """
    assert run(start, program) == "None\n" * 3


WAITS = "ray.init(num_cpus=2)\nrefs = begin_all(2, subprocesses=1)\nup()\nray.get(refs)\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL", "SIGTERM"])
def test_nothing_is_left_of_a_driver_that_is_ended(start: Start, name: str) -> None:
    family = start(WAITS)
    family.await_up()
    os.killpg(family.driver.pid, signal.Signals[name])
    family.end()
    assert family.driver.returncode != 0
    family.check_nothing_is_left()


def test_executors_and_what_they_have_started_die_with_their_agent(start: Start) -> None:
    program = """
    ray.init(num_cpus=3)
    # One of the three never rests: nobody asks its main thread whether the agent is alive.
    @ray.remote(max_retries=0)
    def spin(path):
        pathlib.Path(path).touch()
        while True:
            pass

    refs = begin_all(2, 1, begin.options(max_retries=0))
    path = os.environ["TMPDIR"] + "/begun/spinning"
    refs.append(spin.remote(path))
    while not os.path.exists(path):
        time.sleep(0.01)
    up()
    signal.pause()
    """
    family = start(program)
    family.await_up()
    agent = family.agent()
    others = [one for one in family.processes() if one.pid not in {agent.pid, family.driver.pid}]
    assert len(others) >= 5
    agent.kill()
    wait_until(lambda: not any(map(runs, others)), lambda: list(filter(runs, others)))
    family.driver.kill()
    family.end()


def test_work_goes_on_after_the_death_of_an_agent(start: Start) -> None:
    program = """
    ray.init(num_cpus=2)

    @ray.remote
    def slow(number):
        time.sleep(0.02)
        return number

    refs = [slow.remote(number) for number in range(100)]
    ray.wait(refs, num_returns=10)
    os.kill(ray.nodes()[0]["pid"], signal.SIGKILL)
    print(ray.get(refs) == list(range(100)))
    """
    assert run(start, program) == "True\n"
