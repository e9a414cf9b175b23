"""However a driver ends, nothing of its cluster is left: no process, no socket, no file."""

from __future__ import annotations

import os
import random
import signal
import textwrap
from pathlib import Path

import pytest

from cloudray import platform
from tests.chaos.family import Family, runs, wait_until

#: How a program ends by itself, with tasks running, and its exit status.
ENDS: dict[str, tuple[str, int]] = {
    "at its last line": ("", 0),
    "by an exception": ("raise ValueError('of the program')", 1),
    "by sys.exit": ("sys.exit(3)", 3),
    "by sys.exit in a thread": (
        "thread = threading.Thread(target=sys.exit); thread.start(); thread.join()",
        0,
    ),
    "by sys.exit while a daemon thread waits for a value": (
        """
        waiting = threading.Event()
        def wait():
            waiting.set()
            try:
                ray.get(refs)
            except ray.exceptions.RayError:
                pass
        threading.Thread(target=wait, daemon=True).start()
        waiting.wait()
        sys.exit(4)
        """,
        4,
    ),
    "by sys.exit while another thread still works": (
        """
        def work():
            ray.get([sleep.remote(0.01) for _ in range(20)])
        threading.Thread(target=work).start()
        sys.exit(5)
        """,
        5,
    ),
    "by os._exit": ("os._exit(6)", 6),
    "by os.abort": ("os.abort()", -signal.SIGABRT),
    "by a segmentation fault": ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
    "by exec of another program": ("os.execv('/bin/true', ['true'])", 0),
    "after a shutdown": ("ray.shutdown()", 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_driver_that_ends(tmp_path: Path, how: str) -> None:
    end, status = ENDS[how]
    program = "ray.init(num_cpus=2)\nrefs = begin_all(3, subprocesses=1)\n"
    with Family(program + textwrap.dedent(end), tmp_path) as family:
        family.end()
        assert family.driver.returncode == status
        family.check_nothing_is_left()


WAITS = "ray.init(num_cpus=2)\nrefs = begin_all(3, subprocesses=1)\nup()\nray.get(refs)\n"


def test_what_a_living_cluster_has_is_seen(tmp_path: Path) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        left = family.left()
        # The driver, its agent and zygote, three executors, and what each of these has started.
        assert len(family.processes()) == 9
        folder = next(line for line in left if line.startswith(str(platform.memory_folder())))
        assert any(line.endswith(".sock") and folder in line for line in left)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_nothing_is_left_of_a_driver_that_is_ended(tmp_path: Path, name: str) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        family.driver.send_signal(signal.Signals[name])
        family.end()
        assert family.driver.returncode == -signal.Signals[name]
        family.check_nothing_is_left()


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        family.ctrl_c()
        family.end()
        assert family.driver.returncode != 0
        family.check_nothing_is_left()


def test_nothing_is_left_after_ctrl_c_pressed_again_and_again(tmp_path: Path) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        while family.driver.poll() is None:
            family.ctrl_c()
        family.end()
        family.check_nothing_is_left()


def test_nothing_is_left_of_a_driver_that_was_stopped_and_then_killed(tmp_path: Path) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        family.driver.send_signal(signal.SIGSTOP)
        family.driver.kill()
        family.end()
        family.check_nothing_is_left()


def test_nothing_is_left_when_the_terminal_is_closed(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with Family(WAITS, tmp_path, terminal=theirs) as family:
        os.close(theirs)
        family.await_up()
        os.close(ours)
        family.end()
        assert family.driver.returncode == -signal.SIGHUP
        family.check_nothing_is_left()


def test_nothing_is_left_of_a_thousand_tasks_and_what_they_have_started(tmp_path: Path) -> None:
    program = """
    ray.init(num_cpus=8)
    refs = begin_all(1000, 2, begin.options(num_cpus=1))
    up()
    ray.get(refs)
    """
    with Family(textwrap.dedent(program), tmp_path) as family:
        family.await_up()
        # Each of the eight that run has started two, beside driver, agent and zygote.
        assert len(family.processes()) >= 8 * 3 + 3
        family.driver.kill()
        family.end()
        family.check_nothing_is_left()


# -- the agent goes first ------------------------------------------------------------------


def test_nothing_is_left_of_the_executors_of_an_agent_that_is_killed(tmp_path: Path) -> None:
    program = """
    ray.init(num_cpus=2)
    refs = begin_all(2, 1, begin.options(max_retries=0))
    up()
    try:
        ray.get(refs)
    except ray.exceptions.WorkerCrashedError:
        up()
        signal.pause()
    """
    with Family(textwrap.dedent(program), tmp_path) as family:
        family.await_up()
        agent = family.agent()
        others = [
            one for one in family.processes() if one.pid not in {agent.pid, family.driver.pid}
        ]
        assert len(others) >= 5
        agent.kill()
        family.await_up()
        wait_until(lambda: not any(map(runs, others)), lambda: list(filter(runs, others)))
        family.driver.terminate()
        family.end()
        family.check_nothing_is_left()


def test_of_an_agent_and_a_driver_that_are_killed_together_the_next_driver_removes_the_folder(
    tmp_path: Path,
) -> None:
    with Family(WAITS, tmp_path) as family:
        family.await_up()
        family.agent().kill()
        family.driver.kill()
        family.end()
        family.wait_for_processes()
        run_next_driver(tmp_path)
        family.check_nothing_is_left()


# -- while it starts -----------------------------------------------------------------------

#: Does something to the process at the so manieth event that Python audits within `init`.
AT_AN_EVENT = """
events, moment, number = 0, int(os.environ["MOMENT"]), int(os.environ["NUMBER"])

def count(event, arguments):
    global events
    events += 1
    if events == moment:
        os.kill(os.getpid(), number)

# As from a terminal: whoever runs in the background has inherited that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(count)
try:
    ray.init(num_cpus=1)
finally:
    moment = 0
    print(events, flush=True)
"""
#: How many moments of a start are tried.
MOMENTS = 12


@pytest.fixture(scope="module")
def events_of_a_start(tmp_path_factory: pytest.TempPathFactory) -> int:
    with Family(AT_AN_EVENT, tmp_path_factory.mktemp("start"), at(0, 0)) as family:
        return int(family.run())


def at(moment: int, number: int) -> dict[str, str]:
    return {"MOMENT": str(moment), "NUMBER": str(number)}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_of_a_driver_that_ends_while_it_starts(
    tmp_path: Path, events_of_a_start: int, name: str
) -> None:
    rng = random.Random(name)
    for moment in rng.sample(range(1, events_of_a_start), MOMENTS):
        folder = tmp_path / str(moment)
        folder.mkdir()
        number = signal.Signals[name]
        with Family(AT_AN_EVENT, folder, at(moment, number)) as family:
            _, said = family.end()
            assert family.driver.returncode == -number, said
            family.wait_for_processes()
            if number != signal.SIGINT:
                # A folder that nobody lived in yet is for the next driver to remove.
                let_a_minute_pass(family)
                run_next_driver(folder)
            family.check_nothing_is_left()


def let_a_minute_pass(family: Family) -> None:
    """Make folders look old that were not finished."""
    for place in {platform.memory_folder(), platform.spill_folder()}:
        for folder in place.glob(f".cloudray-{os.getuid()}-{family.driver.pid}-*"):
            os.utime(folder, (0, 0))


def run_next_driver(folder: Path) -> None:
    with Family("ray.init(num_cpus=1)", folder) as family:
        family.run()
