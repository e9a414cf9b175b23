"""How a driver feels on a terminal: what appears, what stays, and what Ctrl-C says."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.clusters import PATIENCE_S
from tests.integration.drivers import LIMIT_S, environment, run_driver
from tests.integration.terminals import Terminal

HEAD = """
        import contextlib, os, signal, sys, threading, time
        import cloudray as ray

        def wait_for(name):
            while not os.path.exists(name):
                time.sleep(0.002)
"""
PROGRAM = (
    HEAD
    + """
        ray.init(num_cpus=2)

        @ray.remote
        def brew(number):
            print(f"cup {number} is on its way")
            wait_for(f"gate-{number}")
            if number == 13:
                raise ValueError("no thirteenth cup")
            return number

"""
)
STARTED = re.compile(
    r"cloudray: embedded cluster, 2 CPUs, [\d.]+ [GT]B memory, [\d.]+ [MGT]B object store "
    r"\(file://(/[^ ]+)/store\)"
)


def open_gates(folder: Path, *numbers: int) -> None:
    for number in numbers:
        folder.joinpath(f"gate-{number}").touch()


def progress(rows: list[str]) -> str:
    """What the progress line says; empty when there is none."""
    last = rows[-1].lstrip("\N{BOX DRAWINGS HEAVY HORIZONTAL} ") if rows else ""
    return last if re.match(r"\d+/\d+ done", last) else ""


def shows(*words: str) -> Callable[[list[str]], bool]:
    """Whether the progress line says all of this."""
    return lambda rows: all(word in progress(rows) for word in words)


def printed_by_tasks(rows: list[str]) -> list[str]:
    return [match[1] for row in rows if (match := re.match(r"\(brew pid=\d+\) (.*)", row))]


def without_tasks_lines(rows: list[str]) -> list[str]:
    return [row for row in rows if not re.match(r"\(brew pid=\d+\) ", row)]


def is_left(folder: Path) -> bool:
    """Whether a cluster's folder is still there after a while."""
    deadline_s = time.monotonic() + PATIENCE_S
    while folder.exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return folder.exists()


# -- while it works ------------------------------------------------------------------------------


def test_a_program_on_a_terminal(tmp_path: Path) -> None:
    program = PROGRAM + "        print(ray.get([brew.remote(number) for number in range(4)]))\n"
    with Terminal(program, tmp_path) as terminal:
        rows = terminal.wait_for(shows("0/4 done", "2 running", "2 queued"))
        assert STARTED.fullmatch(rows[0])
        # One of the two was printed, and the other folded into it.
        assert len(printed_by_tasks(rows)) == 1
        assert len(rows) == 3

        open_gates(tmp_path, 0)
        rows = terminal.wait_for(shows("1/4 done", "2 running", "1 queued", "ETA"))
        assert len(without_tasks_lines(rows)) == 2

        open_gates(tmp_path, 1, 2, 3)
        rows = terminal.finish()
        assert terminal.program.returncode == 0
    assert without_tasks_lines(rows) == [rows[0], "[0, 1, 2, 3]"]
    first, *folded = printed_by_tasks(rows)
    assert re.fullmatch(r"cup [01] is on its way", first)
    # Told when five seconds are over, or at the end.
    counts = [re.search(r"\[repeated (\d)x across cluster\]$", text) for text in folded]
    assert sum(int(count[1]) if count else 1 for count in counts) == 3


def test_what_is_printed_while_it_waits_stands_above_the_progress_line(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        def talk():
            wait_for("gate-thread")
            print("a thread", "has", 4, "words", flush=True)
            sys.stderr.write("and something ")
            sys.stderr.flush()
            sys.stderr.write("in two parts\\n")
            wait_for("gate-more")
            print("and more", flush=True)

        thread = threading.Thread(target=talk)
        thread.start()
        print(ray.get([brew.remote(number) for number in range(2)]))
        thread.join()
        """
    )
    with Terminal(program, tmp_path, RAY_DEDUP_LOGS="0") as terminal:
        terminal.wait_for(shows("0/2 done"))
        tmp_path.joinpath("gate-thread").touch()
        rows = terminal.wait_for(
            lambda rows: "and something in two parts" in rows and bool(progress(rows))
        )
        assert rows[-3:-1] == ["a thread has 4 words", "and something in two parts"]
        tmp_path.joinpath("gate-more").touch()
        terminal.wait_for(lambda rows: rows[-2:-1] == ["and more"] and bool(progress(rows)))
        open_gates(tmp_path, 0, 1)
        rows = terminal.finish()
    assert without_tasks_lines(rows)[1:] == [
        "a thread has 4 words",
        "and something in two parts",
        "and more",
        "[0, 1]",
    ]


def test_the_progress_line_goes_with_an_error(tmp_path: Path) -> None:
    program = PROGRAM + "        ray.get([brew.remote(number) for number in (13, 1)])\n"
    with Terminal(program, tmp_path) as terminal:
        terminal.wait_for(shows("0/2 done", "2 running"))
        open_gates(tmp_path, 13)
        rows = terminal.finish()
        assert terminal.program.returncode == 1
    assert not any(" done" in row for row in rows)
    assert rows.count("Traceback (most recent call last):") == 2
    assert "ValueError: no thirteenth cup" in rows
    # Not one line of ours in either of the two.
    assert {re.search(r'File "(.*)"', row)[1] for row in rows if row.startswith('  File "')} == {  # type: ignore[index]
        str(tmp_path / "driver.py")
    }


def test_a_wait_that_shows_failures_and_ends_with_its_time(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        refs = [brew.remote(number) for number in (13, 1)]
        ready, rest = ray.wait(refs, num_returns=2)
        print(len(ready), "ready")
        """
    )
    open_gates(tmp_path, 13)
    with Terminal(program, tmp_path) as terminal:
        terminal.wait_for(shows("1/2 done", "1 failed"))
        open_gates(tmp_path, 1)
        rows = terminal.finish()
    assert without_tasks_lines(rows)[1:] == ["2 ready"]


def test_progress_can_be_turned_off(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        ref = brew.remote(0)
        ready, _ = ray.wait([ref], timeout=2)
        print("nothing between", flush=True)
        wait_for("gate-0")
        """
    )
    with Terminal(program, tmp_path, CLOUDRAY_PROGRESS="0") as terminal:
        rows = terminal.wait_for(lambda rows: "nothing between" in rows)
        open_gates(tmp_path, 0)
        terminal.finish()
    assert without_tasks_lines(rows)[1:] == ["nothing between"]


def test_a_logging_level_silences_the_first_line(tmp_path: Path) -> None:
    with Terminal(PROGRAM, tmp_path, CLOUDRAY_LOGGING_LEVEL="WARNING") as terminal:
        assert terminal.finish() == []


def test_in_pipes_nothing_of_it_appears(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        # Long enough that a terminal would show something.
        threading.Timer(1.5, lambda: open("gate-0", "w").close()).start()
        print(ray.get(brew.remote(0)))
        """
    )
    ended = run_driver(program, tmp_path)
    assert without_tasks_lines(ended.lines()) == ["0"]
    assert ended.err == ""


def test_a_task_that_waits_shows_nothing(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        @ray.remote(num_cpus=0)
        def ask():
            sys.stderr.isatty = lambda: True
            return ray.get(brew.remote(0))

        threading.Timer(2.0, lambda: open("gate-0", "w").close()).start()
        print(ray.get(ask.remote()))
        """
    )
    ended = run_driver(program, tmp_path, env={"TERM": "xterm"})
    assert without_tasks_lines(ended.lines()) == ["0"]
    assert ended.err == ""


# -- Ctrl-C ------------------------------------------------------------------------------------


def check_traceback(rows: list[str], line: str) -> None:
    """One traceback, in which there is nothing but the user's own line."""
    assert rows[0] == "Traceback (most recent call last):"
    assert re.fullmatch(r'  File ".*/driver.py", line \d+, in <module>', rows[1])
    assert rows[2].strip() == line
    assert all(set(row.strip()) <= set("^~") for row in rows[3:-1])
    assert rows[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("times", [1, 5])
def test_ctrl_c_says_what_it_stopped(tmp_path: Path, times: int) -> None:
    call = "ray.get([brew.remote(number) for number in range(4)])"
    with Terminal(f"{PROGRAM}        {call}\n", tmp_path) as terminal:
        terminal.wait_for(shows("0/4 done", "2 running", "2 queued"))
        open_gates(tmp_path, 0)
        terminal.wait_for(shows("1/4 done", "2 running", "1 queued"))
        for _ in range(times):
            terminal.press_ctrl_c()
        started, *rows = [row.replace("^C", "") for row in terminal.finish()]
        # Ended as a program does that Ctrl-C ended, so that a shell's loop around it ends too.
        assert terminal.program.returncode == -signal.SIGINT
    *trace, last = [row for row in without_tasks_lines(rows) if row]
    check_traceback(trace, call)
    assert last == (
        "cloudray: interrupted; stopped the embedded cluster: 1 task done, 2 running and "
        "1 queued tasks were dropped"
    )
    match = STARTED.fullmatch(started)
    assert match is not None
    assert not is_left(Path(match[1]))


def test_ctrl_c_ends_a_program_whose_threads_wait(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        refs = [brew.remote(number) for number in range(2)]
        threads = [threading.Thread(target=ray.get, args=(refs,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        ray.get(refs)
        """
    )
    with Terminal(program, tmp_path) as terminal:
        terminal.wait_for(shows("0/2 done", "2 running"))
        terminal.press_ctrl_c()
        rows = terminal.finish()
        assert terminal.program.returncode == -signal.SIGINT
    *trace, last = without_tasks_lines(rows)[1:]
    check_traceback(trace, "ray.get(refs)")
    assert last.startswith("cloudray: interrupted; stopped the embedded cluster: 0 tasks done")


def test_ctrl_c_at_a_prompt_ends_the_wait_only(tmp_path: Path) -> None:
    program = PROGRAM + "        blocked = brew.options(num_cpus=0).remote(0)\n"
    # Without control codes, which the line editor would use.
    with Terminal(program, tmp_path, "-i", TERM="dumb", CLOUDRAY_LOG_TO_DRIVER="0") as terminal:
        terminal.wait_for(lambda rows: rows[-1:] == [">>>"])
        terminal.type("print('waits'); ray.get(blocked)")
        terminal.wait_for(lambda rows: "waits" in rows)
        terminal.press_ctrl_c()
        rows = terminal.wait_for(lambda rows: rows[-1:] == [">>>"] and "KeyboardInterrupt" in rows)
        assert not any("interrupted" in row or "cloudray/" in row for row in rows)
        open_gates(tmp_path, 0, 7)
        terminal.type("print('got', ray.get([blocked, brew.remote(7)]))")
        terminal.wait_for(lambda rows: "got [0, 7]" in rows)
        terminal.type("exit()")
        terminal.finish()
        assert terminal.program.returncode == 0


INTERRUPT = (
    HEAD
    + """
        import importlib

        def interrupt_at(point, when):
            module, _, path = point.partition(":")
            owner = importlib.import_module(module)
            *outer, name = path.split(".")
            for one in outer:
                owner = getattr(owner, one)
            real = getattr(owner, name)

            def interrupting(*args, **kwargs):
                setattr(owner, name, real)
                if when == "before":
                    signal.raise_signal(signal.SIGINT)
                result = real(*args, **kwargs)
                if when == "after":
                    signal.raise_signal(signal.SIGINT)
                return result

            setattr(owner, name, interrupting)

        interrupt_at(*sys.argv[1:])

        @ray.remote
        def same(value):
            return value

        ray.init(num_cpus=1)
        ray.get([same.remote(number) for number in range(20)])
        ray.wait([same.remote(ray.put(1))])
        END
"""
)
#: Where a program is interrupted, and how it would have ended.
POINTS = [
    ("cloudray.api.session:_join", "pass"),
    ("cloudray.folders:PrivateFolder.__init__", "pass"),
    ("cloudray.driver.embedded:EmbeddedCluster._start", "pass"),
    ("cloudray.driver.client:DriverClient.__init__", "pass"),
    ("cloudray.driver.client:DriverClient.await_greeting", "pass"),
    ("cloudray.driver.submitting:Submitting.prepare", "pass"),
    ("cloudray.driver.submitting:Submitting.submit", "pass"),
    ("cloudray.driver.submitting:Submitting._store_batch", "pass"),
    ("cloudray.driver.client:DriverClient.get", "pass"),
    ("cloudray.driver.submitting:Submitting.store_value", "pass"),
    ("cloudray.driver.client:DriverClient.wait", "pass"),
    ("cloudray.driver.pump:Pump.run_until", "pass"),
    ("cloudray.driver.peers:Peers.wait", "pass"),
    *(
        (point, end)
        for point in (
            "cloudray.driver.session:Session.close",
            "cloudray.driver.client:DriverClient.hang_up",
            "cloudray.driver.embedded:EmbeddedCluster.close",
        )
        for end in ("ray.shutdown()", "pass")
    ),
]


def interrupted(folder: Path, point: str, when: str, end: str) -> subprocess.CompletedProcess[str]:
    """Run a program that interrupts itself at some point."""
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(INTERRUPT).replace("END", end))
    return subprocess.run(
        [sys.executable, script, point, when],
        cwd=folder,
        env=environment(STARTED_BY=str(folder)),
        capture_output=True,
        check=False,
        text=True,
        timeout=LIMIT_S,
    )


def started_by(folder: Path) -> list[psutil.Process]:
    """What still runs of all that the program of a test has started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("STARTED_BY") == str(folder):
                found.append(process)
    return found


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("point", "end"), POINTS, ids=[f"{point.partition(':')[2]}-{end}" for point, end in POINTS]
)
def test_ctrl_c_at_any_moment_leaves_nothing(
    tmp_path: Path, point: str, when: str, end: str
) -> None:
    ended = interrupted(tmp_path, point, when, end)
    # At the very end there is nothing left to interrupt.
    assert ended.returncode in {-signal.SIGINT, 0}, ended.stderr
    assert ended.stderr.count("Traceback") == (ended.returncode != 0), ended.stderr
    assert "/cloudray/" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    deadline_s = time.monotonic() + PATIENCE_S
    while (left := started_by(tmp_path)) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert left == []


# -- the end -----------------------------------------------------------------------------------


def test_an_end_with_work_pending_says_what_is_dropped(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        refs = [brew.remote(number) for number in range(4)]
        open("gate-0", "w").close()
        ray.get(refs[0])
        """
    )
    ended = run_driver(program, tmp_path)
    (line,) = ended.err.splitlines()
    assert line.startswith("cloudray: the program ended, and the embedded cluster with it: ")
    assert " tasks were dropped. Wait for values with cloudray.get(refs)" in line
    running, queued = (re.search(rf"(\d) {what}", ended.err) for what in ("running", "queued"))
    assert sum(int(found[1]) for found in (running, queued) if found) == 3


def test_work_that_nobody_wants_any_more_is_dropped_in_silence(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
        kept = brew.remote(0)
        open("gate-0", "w").close()
        refs = [brew.remote(number) for number in range(1, 4)]
        brew.remote(4)
        del refs
        ray.get(kept)
        """
    )
    assert run_driver(program, tmp_path).err == ""


def test_ctrl_c_while_work_is_being_stored_at_the_end_is_no_good_end(tmp_path: Path) -> None:
    address = (tmp_path / "shared").as_uri()
    program = f"""
        import signal
        import cloudray as ray
        from cloudray.driver.client import DriverClient

        ray.init({address!r})

        @ray.remote
        def same(value):
            return value

        ref = same.remote(1)
        print(ray.get_runtime_context().get_job_id())
        DriverClient.flush = lambda self: signal.raise_signal(signal.SIGINT)
    """
    ended = run_driver(program, tmp_path, fails=True)
    (job,) = ended.lines()
    assert ended.status == -signal.SIGINT
    assert "some of it may be missing" in ended.err
    assert f"cloudray jobs show {job} {address}" in ended.err
    assert "Traceback" not in ended.err


def test_work_that_goes_on_elsewhere_can_be_collected_later(tmp_path: Path) -> None:
    address = (tmp_path / "shared").as_uri()
    first = f"""
        import cloudray as ray
        ray.init({address!r})

        @ray.remote
        def add(first, second):
            return first + second

        refs = [add.remote(number, 1) for number in range(5)]
        print(refs[0].hex())
    """
    ended = run_driver(first, tmp_path)
    (ref,) = ended.lines()
    assert "5 queued tasks were left to" in ended.err
    assert address in ended.err
    assert ref in ended.err
    assert "and 2 more" in ended.err
    second = f"""
        import subprocess, sys
        import cloudray as ray
        agent = subprocess.Popen(
            [sys.executable, "-m", "cloudray", "worker", {address!r}, "--num-cpus", "1"]
        )
        try:
            ray.init({address!r})
            print(ray.get(ray.ObjectRef.from_hex({ref!r}), timeout=60))
        finally:
            agent.terminate()
            agent.wait()
    """
    assert run_driver(second, tmp_path).lines() == ["1"]


def test_ctrl_c_again_and_again_leaves_a_driver_usable(tmp_path: Path) -> None:
    program = (
        HEAD
        + """
        import random
        ray.init(num_cpus=2)
        chance = random.Random(1)

        @ray.remote
        def same(value):
            return value

        def work():
            while True:
                ray.get([same.remote(number) for number in range(chance.randrange(1, 60))])
                ray.wait([same.remote(number) for number in range(5)], num_returns=5)
                ray.get(same.remote(ray.put(b"x" * 200_000)))

        interrupted = 0
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        for _ in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00001, 0.01))
                work()
            except KeyboardInterrupt:
                interrupted += 1
            assert ray.get([same.remote(number) for number in range(3)]) == [0, 1, 2]
        print(interrupted)
        """
    )
    ended = run_driver(program, tmp_path)
    assert (ended.out, ended.err) == ("100\n", "")
