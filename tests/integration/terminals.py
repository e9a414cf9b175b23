"""A terminal that a test looks at: a program runs in it, and keys are pressed."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.integration.drivers import environment
from tests.screens import Screen

#: Far longer than anything here takes; what never appears fails.
LIMIT_S = 60.0
_WIDTH, _HEIGHT = 250, 40
#: Makes the terminal the one that sends its interrupts to this process, then becomes the program.
_IN_FRONT = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """A program in a terminal of its own; ends with the block."""

    def __init__(self, source: str, folder: Path, *arguments: str, **env: str) -> None:
        script = folder / "driver.py"
        script.write_text(textwrap.dedent(source))
        self.screen = Screen(_WIDTH)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._keys, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _HEIGHT, _WIDTH, 0, 0))
        known = environment(**{"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env})
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            known.pop(name, None)
        try:
            self.program = subprocess.Popen(
                [sys.executable, "-c", _IN_FRONT, *arguments, str(script)],
                cwd=folder,
                env=known,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._keys)

    def press_ctrl_c(self) -> None:
        """What the keyboard does; the terminal interrupts whoever is in front."""
        os.write(self._keys, b"\x03")

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._keys, text.encode() + b"\n")

    def wait_for(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Look at the screen until something is seen there; returns its rows."""
        deadline_s = time.monotonic() + LIMIT_S
        while not seen(rows := self.screen.rows()):
            shown = "\n".join(rows)
            assert time.monotonic() < deadline_s, f"it never appeared on\n{shown}"
            assert self._read(), f"the program ended with {self.program.wait()}, showing\n{shown}"
        return rows

    def finish(self) -> list[str]:
        """Read on until the program has ended; returns the rows that it leaves."""
        deadline_s = time.monotonic() + LIMIT_S
        while self._read():
            shown = "\n".join(self.screen.rows())
            assert time.monotonic() < deadline_s, f"it never ended, showing\n{shown}"
        self.program.wait(LIMIT_S)
        return self.screen.rows()

    def _read(self) -> bool:
        """Take in what is written within a moment; False when nobody writes any more."""
        readable, _, _ = select.select([self._keys], [], [], 0.05)
        if not readable:
            return True
        try:
            written = os.read(self._keys, 1 << 16)
        except OSError:
            # The program is gone, and so is everything that it started in this terminal.
            return False
        self.screen.feed(self._decode(written))
        return bool(written)
