"""Output of tasks on the driver's terminal: `(name pid=…) text`, repeats folded as Ray does."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from cloudray.protocol.messages import Line

#: Lines that differ only in numbers are folded when several processes print them within this.
FOLD_S = 5.0
_NUMBERS = re.compile(r"(0x[0-9a-fA-F]+|\d+)")
_COLOUR, _PLAIN = "\x1b[36m", "\x1b[0m"


class _Repeated(msgspec.Struct):
    line: Line
    since_s: float
    count: int
    pids: set[int]


class Printer:
    """Prints lines, whole, from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._repeated: dict[str, _Repeated] = {}

    def take(self, lines: tuple[Line, ...]) -> None:
        """Print lines, or fold them into what other processes have printed."""
        with self._lock:
            now_s = self._clock()
            self._release(now_s)
            for line in lines:
                key = _NUMBERS.sub("0", line.text)
                seen = self._repeated.get(key)
                if seen is None:
                    self._repeated[key] = _Repeated(line, now_s, 0, {line.pid})
                    _print(line)
                    continue
                seen.pids.add(line.pid)
                if len(seen.pids) == 1:
                    _print(line)
                else:
                    seen.count += 1
                    seen.line = line

    def flush(self) -> None:
        """Print what is folded."""
        with self._lock:
            self._release(float("inf"))

    def _release(self, now_s: float) -> None:
        for key, seen in list(self._repeated.items()):
            if now_s - seen.since_s > FOLD_S:
                del self._repeated[key]
                if seen.count == 1:
                    _print(seen.line)
                elif seen.count:
                    _print(seen.line, f" [repeated {seen.count}x across cluster]")


def _print(line: Line, suffix: str = "") -> None:
    stream = sys.stderr if line.is_error else sys.stdout
    who = f"({line.name} pid={line.pid})"
    if stream.isatty():
        who = f"{_COLOUR}{who}{_PLAIN}"
    # One write, so that no other output comes between.
    stream.write(f"{who} {line.text}{suffix}\n")
    stream.flush()
