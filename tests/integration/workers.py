"""`cloudray worker` as a process, and what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.integration.clusters import wait_until_gone
from tests.integration.programs import ROOT

#: Far longer than anything here takes; what never happens fails.
PATIENCE_S = 60.0


class RunningWorker:
    """A worker, which says into a file what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> list[str]:
        """Its lines so far, without its name."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix("cloudray worker: ") for line in lines]

    def await_line(self, pattern: str) -> str:
        """Wait until it says such a line; returns that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            for line in self.said:
                if re.search(pattern, line):
                    return line
            assert self._process.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < deadline_s, f"it did not say {pattern!r}: {self.said}"
            time.sleep(0.01)

    def family(self) -> list[psutil.Process]:
        """Its zygote, its executors, and what they have started."""
        return psutil.Process(self.pid).children(recursive=True)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended; returns its exit code."""
        return self._process.wait(PATIENCE_S)


@contextmanager
def worker(folder: Path, *words: str) -> Iterator[RunningWorker]:
    """Start `cloudray worker` with these words; its log and its sockets lie in `folder`."""
    log = folder / "worker.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudray", "worker", *words],
            cwd=ROOT,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
            stderr=errors,
        )
    running = RunningWorker(process, log)
    try:
        yield running
    finally:
        family = running.family() if process.poll() is None else []
        process.kill()
        process.wait()
        wait_until_gone(family)
