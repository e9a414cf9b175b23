"""Tasks without manners: what they do to their process costs neither others nor the next ones."""

from __future__ import annotations

import decimal
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import cloudray as ray
from cloudray.exceptions import (
    RayTaskError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from tests.integration.clusters import Embedded, wait_until_gone
from tests.integration.drivers import Ended, run_driver
from tests.integration.gates import LIMIT_S, wait_for
from tests.integration.test_output import said


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def call(function: Callable[[], Any]) -> Any:
    return function()


@pytest.fixture
def one(own_cluster: Callable[..., Embedded]) -> Embedded:
    """A cluster in which one process runs all tasks, one after the other."""
    cluster = own_cluster(num_cpus=1)
    ray.get(same.remote("warm"))
    return cluster


def look_around() -> dict[str, Any]:
    """What a task finds."""
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "directory": os.getcwd(),  # noqa: PTH109 - the text itself is compared
        "variables": dict(os.environ),
        "inherited": {*subprocess.check_output(["env"], text=True).splitlines()},  # noqa: S607
        "mask": mask,
        "handlers": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "path": sys.path,
        "depth": sys.getrecursionlimit(),
        "process": os.getpid(),
        "descriptors": [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)],  # noqa: PTH115
    }


def change_directory() -> None:
    os.chdir("/")


def leave_directory_by_descriptor() -> None:
    descriptor = os.open("/", os.O_RDONLY)
    os.fchdir(descriptor)
    os.close(descriptor)


def delete_environment() -> None:
    os.environ.clear()


def change_environment() -> None:
    os.environ["RUDE"] = "1"
    os.environ["PATH"] = f"/rude:{os.environ['PATH']}"
    del os.environ["HOME"]


def replace_environment() -> None:
    os.environ = {}  # type: ignore[assignment] # noqa: B003 - rude


def mask_everything() -> None:
    os.umask(0o777)


def ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def set_an_alarm() -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def clear_path() -> None:
    sys.path.clear()


def limit_recursion() -> None:
    sys.setrecursionlimit(60)


def close_descriptors() -> None:
    os.close(1)
    os.close(2)


def redirect_descriptors() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


CHANGES: list[Callable[[], None]] = [
    change_directory,
    leave_directory_by_descriptor,
    delete_environment,
    change_environment,
    replace_environment,
    mask_everything,
    ignore_signals,
    block_signals,
    set_an_alarm,
    clear_path,
    limit_recursion,
    close_descriptors,
    redirect_descriptors,
]


@pytest.mark.usefixtures("one")
def test_the_next_task_finds_everything_as_it_was() -> None:
    before = ray.get(call.remote(look_around))
    for change in CHANGES:
        ray.get(call.remote(change))
        assert ray.get(call.remote(look_around)) == before, change.__name__


@pytest.mark.parametrize("change", [ignore_signals, block_signals], ids=lambda f: f.__name__)
@pytest.mark.usefixtures("one")
def test_the_next_task_can_be_cancelled(change: Callable[[], None], tmp_path: Path) -> None:
    def sleep() -> None:
        tmp_path.joinpath("started").touch()
        time.sleep(LIMIT_S)

    ray.get(call.remote(change))
    ref = call.remote(sleep)
    wait_for(tmp_path / "started")
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
    # Its process is free again, or this would wait for ever.
    assert ray.get(same.remote("next")) == "next"


@pytest.mark.usefixtures("one")
def test_what_a_module_sets_up_when_it_is_imported_stays_as_the_module_does(
    tmp_path: Path,
) -> None:
    tmp_path.joinpath("setting_up.py").write_text(
        "import os, signal\n"
        "os.environ['SET_UP'] = 'yes'\n"
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    )

    def load() -> None:
        sys.path.append(str(tmp_path))
        import setting_up  # type: ignore[import-not-found] # noqa: F401

        os.environ["TASK"] = "yes"

    def look() -> tuple[str | None, str | None, bool]:
        ignored = signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        return os.environ.get("SET_UP"), os.environ.get("TASK"), ignored

    ray.get(call.remote(load))
    for _ in range(2):
        assert ray.get(call.remote(look)) == ("yes", None, True)
        ray.get(call.remote(change_environment))


@pytest.mark.usefixtures("one")
def test_a_task_may_change_things_for_itself() -> None:
    def change_and_look() -> tuple[str, str, str]:
        os.chdir("/")
        os.environ["RUDE"] = "1"
        child = subprocess.check_output(["sh", "-c", "echo $RUDE $PWD"], text=True)  # noqa: S607
        return os.getcwd(), os.environ["RUDE"], child  # noqa: PTH109 - as above

    assert ray.get(call.remote(change_and_look)) == ("/", "1", "1 /\n")


@pytest.mark.usefixtures("one")
def test_a_directory_that_is_gone_is_left(tmp_path: Path) -> None:
    def fall() -> None:
        folder = tmp_path / "gone"
        folder.mkdir()
        os.chdir(folder)
        folder.rmdir()

    ray.get(call.remote(fall))
    assert ray.get(call.remote(os.getcwd)) == os.getcwd()  # noqa: PTH109 - as above


# -- how a task may end --------------------------------------------------------------------


def interrupt() -> None:
    raise KeyboardInterrupt


def end_generator() -> None:
    raise GeneratorExit


def recurse() -> None:
    recurse()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (interrupt, "KeyboardInterrupt"),
        (end_generator, "GeneratorExit"),
        (recurse, "RecursionError: maximum recursion depth exceeded"),
    ],
)
@pytest.mark.usefixtures("one")
def test_whatever_a_task_raises_is_its_error(function: Callable[[], None], name: str) -> None:
    pid = ray.get(call.remote(os.getpid))
    with pytest.raises(RayTaskError, match=name):
        ray.get(call.remote(function))
    assert ray.get(call.remote(os.getpid)) == pid


def leave_with_a_number() -> None:
    sys.exit(3)


def leave_with_words() -> None:
    raise SystemExit("no more tea")


def leave_at_once() -> None:
    os._exit(0)


def overflow_the_stack() -> None:
    sys.setrecursionlimit(1 << 30)
    nested: list[Any] = []
    for _ in range(1_000_000):
        nested = [nested]
    repr(nested)


def become_another_program() -> None:
    os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(5)"])  # noqa: S606


def terminate_itself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LIMIT_S)


def close_all_descriptors() -> None:
    os.closerange(0, 1 << 12)


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        (leave_with_a_number, ["it left with exit code 3", "in leave_with_a_number", "SystemExit"]),
        (leave_with_words, ["it left with exit code 1", "SystemExit: no more tea"]),
        (leave_at_once, ["it left with exit code 0", "A task should return or raise"]),
        (overflow_the_stack, ["killed by SIGSEGV", "in overflow_the_stack"]),
        (become_another_program, ["it left with exit code 5"]),
        (terminate_itself, ["killed by SIGTERM"]),
        (
            close_all_descriptors,
            ["it left with exit code 1", "closed file descriptors that it had not opened"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.usefixtures("cluster")
def test_the_end_of_its_process_is_told_and_costs_nobody_else_anything(
    function: Callable[[], None], parts: list[str]
) -> None:
    neighbours = [same.remote(number) for number in range(5)]
    with pytest.raises(WorkerCrashedError) as raised:
        ray.get(call.options(max_retries=0, name="rude").remote(function))
    assert "The worker process that ran rude died: " in str(raised.value)
    for part in parts:
        assert part in str(raised.value)
    assert ray.get([*neighbours, same.remote("next")]) == [0, 1, 2, 3, 4, "next"]


def break_the_executor() -> None:
    import builtins

    builtins.isinstance = None  # type: ignore[assignment]


def break_the_next_call() -> None:
    import cloudray.executor.serve as ours

    ours.Executor._run = None  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("harm", [break_the_executor, break_the_next_call])
@pytest.mark.usefixtures("one")
def test_a_process_that_cannot_go_on_is_replaced(harm: Callable[[], None]) -> None:
    ref = call.options(max_retries=0).remote(harm)
    ray.wait([ref])
    assert ray.get([same.remote(number) for number in range(3)]) == [0, 1, 2]


@pytest.mark.usefixtures("one")
def test_a_process_that_stops_itself_is_ended_by_its_time_limit() -> None:
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.raises(TaskTimeoutError, match="its process was killed"):
        ray.get(call.options(timeout_s=0.2).remote(stop))
    assert ray.get(same.remote("next")) == "next"


@pytest.mark.parametrize("end", ["return", "raise", "exit"])
@pytest.mark.usefixtures("one")
def test_a_child_that_comes_out_of_a_task_ends_and_says_nothing(end: str) -> None:
    def fork() -> tuple[str, int]:
        pid = os.fork()
        if not pid and end == "raise":
            raise ValueError("child")
        if not pid and end == "exit":
            sys.exit(3)
        return ("parent" if pid else "child"), pid

    who, pid = ray.get(call.remote(fork))
    assert who == "parent"
    assert ray.get(same.remote("next")) == "next"
    wait_until_gone([psutil.Process(pid)] if psutil.pid_exists(pid) else [])


# -- what goes on after a task -------------------------------------------------------------


@pytest.mark.usefixtures("one")
def test_threads_and_loops_that_go_on_harm_nobody(tmp_path: Path) -> None:
    def leave_behind() -> None:
        import asyncio

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        threading.Thread(target=loop.run_forever).start()

        def change_later() -> None:
            wait_for(tmp_path / "next")
            os.chdir("/")
            tmp_path.joinpath("changed").touch()

        threading.Thread(target=change_later).start()

    async def nap() -> str:
        import asyncio

        await asyncio.sleep(0)
        return "slept"

    def let_it_change() -> None:
        tmp_path.joinpath("next").touch()
        wait_for(tmp_path / "changed")

    ray.get(call.remote(leave_behind))
    assert ray.get(ray.remote(nap).remote()) == "slept"
    ray.get(call.remote(let_it_change))
    assert ray.get(call.remote(os.getcwd)) == os.getcwd()  # noqa: PTH109 - as above


def start_daemons() -> list[int]:
    """Children in the group, out of it, and a daemon that has left its parent too."""
    sleep = ["sleep", "1000"]
    pids = [subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writing, str(os.getpid()).encode())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    return [*pids, int(os.read(reading, 100))]


def test_daemons_end_with_the_cluster(own_cluster: Callable[..., Embedded]) -> None:
    cluster = own_cluster(num_cpus=1)
    daemons = [psutil.Process(pid) for pid in ray.get(call.remote(start_daemons))]
    assert all(daemon.is_running() for daemon in daemons)
    cluster.end()
    wait_until_gone(daemons)


def test_daemons_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    ended = run_driver(
        """
        import os, sys
        import cloudray as ray
        from tests.integration.test_rude_tasks import start_daemons

        ray.init(num_cpus=1)
        print(*ray.get(ray.remote(start_daemons).remote()), flush=True)
        os.kill(os.getpid(), 9)
        """,
        tmp_path,
        fails=True,
    )
    pids = [int(pid) for pid in ended.out.split()]
    assert len(pids) == 3
    wait_until_gone([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.usefixtures("one")
def test_a_task_may_use_multiprocessing(method: str) -> None:
    def compute() -> list[int]:
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(abs, [-1, 2, -3])

    assert ray.get(call.remote(compute)) == [1, 2, 3]
    assert ray.get(same.remote("next")) == "next"


@pytest.mark.usefixtures("one")
def test_what_stays_in_the_process_as_with_ray_does_no_harm() -> None:
    def meddle() -> None:
        import faulthandler
        import gc
        import locale
        import warnings

        faulthandler.disable()
        gc.disable()
        locale.setlocale(locale.LC_ALL, "C")
        warnings.simplefilter("error")
        decimal.getcontext().prec = 3
        sys.setswitchinterval(100)
        sys.excepthook = None  # type: ignore[assignment]
        sys.setprofile(lambda *_: None)
        for name in [name for name in sys.modules if name.startswith("json")]:
            del sys.modules[name]

    ray.get(call.remote(meddle))
    assert ray.get([same.remote(number) for number in range(20)]) == list(range(20))
    ref = call.remote(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ray.get(ref)


# -- what a task prints --------------------------------------------------------------------

START = """
        import os, sys, time
        import cloudray as ray
        ray.init(num_cpus=1)
"""


def test_after_a_task_that_closed_its_output_the_next_one_is_heard(tmp_path: Path) -> None:
    ended = run_driver(
        START
        + """
        @ray.remote
        def rude(how):
            if how == "print":
                os.close(1)
                print("perhaps nobody hears this")
            elif how == "descriptors":
                os.close(1)
                os.close(2)
            elif how == "redirect":
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
            elif how == "none":
                sys.stdout = sys.stderr = None
            else:
                sys.stdout.close()
                sys.stderr.close()

        @ray.remote
        def talk(how):
            print("after", how)
            os.write(2, b"native\\n")

        for how in ("descriptors", "redirect", "none", "streams", "print"):
            try:
                ray.get(rude.remote(how))
            except OSError as error:
                print(how, error.strerror)
            ray.get(talk.remote(how))
        """,
        tmp_path,
        env={"RAY_DEDUP_LOGS": "0"},
    )
    hows = ("descriptors", "redirect", "none", "streams", "print")
    # What was in a buffer when its descriptor went comes late, or not at all.
    heard = [text for _, text in said(ended.out) if text != "perhaps nobody hears this"]
    assert heard == [f"after {how}" for how in hows]
    assert [text for _, text in said(ended.err)] == ["native"] * 5
    assert "print Bad file descriptor" in ended.lines()


def test_what_is_no_text_is_shown_as_escapes(tmp_path: Path) -> None:
    ended = run_driver(
        START
        + r"""
        @ray.remote
        def talk():
            sys.stdout.buffer.write(b"\xff\xfe \x00\x01 \x80\n")
            os.write(1, bytes(range(256)) + b"\n")
            print("still here")

        ray.get(talk.remote())
        """,
        tmp_path,
    )
    assert "\\xff\\xfe" in ended.out
    assert said(ended.out)[-1] == ("talk", "still here")


def flood(folder: Path, printing: str) -> Ended:
    """Let a task print a lot, to a driver that does not read for a while."""
    return run_driver(
        START
        + f"""
        import psutil

        @ray.remote
        def flood():
            {printing}
            print("the end")
            return "flooded"

        def resident():
            agent = psutil.Process(int(ray.nodes()[0]["pid"]))
            return [process.memory_info().rss for process in (agent, psutil.Process())]

        ray.get(ray.remote(lambda: 1).remote())
        before = resident()
        print(ray.get(flood.remote()))
        grown = max(now - then for now, then in zip(resident(), before))
        print("grown", grown)
        """,
        folder,
    )


@pytest.mark.parametrize(
    ("printing", "size"),
    [
        ('[print("x" * 99) for _ in range(1_000_000)]', 100_000_000),
        ('print("x" * 50_000_000)', 50_000_000),
    ],
    ids=["100 MB of lines", "a line of 50 MB"],
)
def test_a_flood_costs_no_memory_and_what_is_left_out_is_counted(
    tmp_path: Path, printing: str, size: int
) -> None:
    ended = flood(tmp_path, printing)
    lines = ended.lines()
    assert "flooded" in lines
    texts = [text for _, text in said(ended.out)]
    assert texts[-1] == "the end"
    left_out = [
        int(text.split()[0].replace(",", ""))
        for who, text in said(ended.err)
        if who == "cloudray" and "lines of output are left out here" in text
    ]
    pieces = size // 100 if "range" in printing else -(-size // (1 << 16))
    assert len(texts) - 1 + sum(left_out) == pieces
    # A fraction of what was printed.
    (grown,) = (int(line.split()[1]) for line in lines if line.startswith("grown"))
    assert grown < size
