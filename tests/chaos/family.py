"""A driver as a program of its own, with all that it and its cluster may leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import psutil

from cloudray import platform
from tests.integration.drivers import environment

#: Far longer than anything here takes; what never happens fails.
PATIENCE_S = 60.0
#: By this variable every process of a family is known: all inherit it.
_MARK = "FAMILY_OF_A_TEST"

#: Runs a program on a terminal that is its standard input.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
#: What every program begins with. `up()` says that the driver is where the test wants it.
PRELUDE = """
import os, pathlib, signal, subprocess, sys, threading, time
import cloudray as ray

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` has ignored in all its children

def up():
    print("up", flush=True)

@ray.remote(num_cpus=0.001)
def sleep(seconds=600):
    time.sleep(seconds)

@ray.remote(num_cpus=0.001)
def begin(path, subprocesses=0):
    for _ in range(subprocesses):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(path).touch()
    time.sleep(600)

def begin_all(count, subprocesses=0, task=begin):
    folder = pathlib.Path(os.environ["TMPDIR"]) / "begun"
    folder.mkdir()
    refs = [task.remote(folder / str(n), subprocesses) for n in range(count)]
    while len(os.listdir(folder)) < min(count, 8):
        time.sleep(0.01)
    return refs
"""


class Family:
    """A driver, its cluster, and whatever these start.

    Its folder for temporary files is `temp`, and its controlling terminal the one that the
    descriptor `terminal` belongs to, if any. A
    with-block ends with all of the family dead.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        variables: Mapping[str, str] = MappingProxyType({}),
        *,
        terminal: int | None = None,
    ) -> None:
        self._mark = os.urandom(8).hex()
        self.temp = Path(variables.get("TMPDIR", folder / "temp"))
        self.temp.mkdir(mode=0o700, exist_ok=True)
        script = folder / "driver.py"
        script.write_text(PRELUDE + textwrap.dedent(program))
        places = {_MARK: self._mark, "TMPDIR": str(self.temp), "XDG_RUNTIME_DIR": str(self.temp)}
        self.driver = subprocess.Popen(
            [
                *([] if terminal is None else [sys.executable, "-c", _TAKE_TERMINAL]),
                sys.executable,
                str(script),
            ],
            cwd=folder,
            env=environment(**{**places, **variables}),
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.driver.communicate()

    def await_up(self) -> None:
        """Wait until the driver says that it is up."""
        line = self.read_line()
        if line != "up\n":
            self.driver.kill()
            raise AssertionError(f"the driver said {line!r}; {self.driver.communicate()[1]}")

    def read_line(self) -> str:
        """The next line that the driver prints, or what there is of it at its end."""
        assert self.driver.stdout is not None
        # Byte by byte: what a buffer took beyond the line would be lost to `communicate`.
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self.driver.stdout.fileno(), 1)):
            line += byte
        return line.decode()

    def ctrl_c(self) -> None:
        """What a terminal does: it interrupts the whole group."""
        os.killpg(self.driver.pid, signal.SIGINT)

    def end(self) -> tuple[str, str]:
        """Wait for the end of the driver; returns the rest of what it printed."""
        return self.driver.communicate(timeout=PATIENCE_S)

    def run(self) -> str:
        """Wait for the good end of the driver; returns what it printed."""
        out, err = self.end()
        assert self.driver.returncode == 0, err
        return out

    def processes(self) -> list[psutil.Process]:
        """Who is alive of the family."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def agent(self) -> psutil.Process:
        """The agent of the driver's cluster."""
        (agent,) = psutil.Process(self.driver.pid).children()
        return agent

    def left(self) -> list[str]:
        """Processes, sockets and files that are left of the family."""
        prefix = f"cloudray-{os.getuid()}-{self.driver.pid}-"
        folders = [
            path
            for place in {
                platform.memory_folder(),
                platform.spill_folder(),
                self.temp,
                Path("/tmp"),
            }
            for path in (*place.glob(f"{prefix}*"), *place.glob(f".{prefix}*"))
        ]
        others = [path for path in self.temp.iterdir() if path.name not in {"begun", "cloudray"}]
        sockets = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
        return [
            *map(str, self.processes()),
            *map(str, folders),
            *map(str, others),
            *map(str, self.temp.glob("cloudray/*")),
            *(line for line in sockets if prefix in line or str(self.temp) in line),
        ]

    def wait_for_processes(self, *, but: int = 0) -> None:
        """Wait until nobody of the family is alive, `but` one process perhaps."""
        wait_until(lambda: {one.pid for one in self.processes()} <= {but}, self.processes)

    def check_nothing_is_left(self) -> None:
        """Wait until nothing is left; fails when something stays."""
        wait_until(lambda: not self.left(), self.left)


def runs(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for somebody to reap it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait for a condition; `what` says what stands in its way."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what()
        time.sleep(0.02)
