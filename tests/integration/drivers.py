"""Drivers as programs of their own: what they print, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from tests.integration.programs import ROOT

#: Far longer than any of these programs takes; one that hangs fails.
LIMIT_S = 60


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    err: str

    def lines(self) -> list[str]:
        """The lines of its standard output."""
        return self.out.splitlines()


def environment(**more: str) -> dict[str, str]:
    """The environment of a driver that finds the package wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run_driver(
    source: str,
    folder: Path,
    *,
    cwd: Path | None = None,
    fails: bool = False,
    env: dict[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> Ended:
    """Run a program, which lies in `folder`; unless it `fails`, its exit status is 0."""
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=cwd or folder,
        env=environment(**env or {}),
        capture_output=True,
        check=False,
        text=True,
        timeout=limit_s,
    )
    assert (done.returncode != 0) == fails, f"{done.stdout}\n{done.stderr}"
    return Ended(done.returncode, done.stdout, done.stderr)


def start_driver(source: str, folder: Path) -> subprocess.Popen[str]:
    """Start a program whose output can be read while it runs."""
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A Ctrl-C that a test plays must not reach the test.
        start_new_session=True,
    )


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """What a terminal does: it interrupts the whole group."""
    os.killpg(process.pid, signal.SIGINT)
