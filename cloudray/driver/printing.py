"""Output of tasks on the driver's terminal: `(name pid=…) text`, repeats folded as Ray does."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from cloudray import configuration
from cloudray.protocol.messages import Line

#: Lines that differ only in words with numbers are folded when several processes print them
#: within this time.
FOLD_S = 5.0
_HAS_NUMBER = re.compile(r"\d")
_COLOUR, _PLAIN = "\x1b[36m", "\x1b[0m"


class _Repeated(msgspec.Struct):
    line: Line
    since_s: float
    count: int
    pids: set[int]


class Printer:
    """Prints lines, whole, from any thread.

    Folds as Ray does: a line is known by its words without digits; one that only a single
    process has printed is not folded, nor one that has no such words. The setting `dedup_logs`
    turns folding off.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Taken again by a signal handler that waits.
        self._lock = threading.RLock()
        self._repeated: dict[tuple[bool, str], _Repeated] = {}
        self._fold = configuration.current().dedup_logs

    def take(self, lines: tuple[Line, ...]) -> None:
        """Print lines, or fold them into what other processes have printed."""
        with self._lock:
            now_s = self._clock()
            self._release(now_s)
            for line in lines:
                words = " ".join(word for word in line.text.split() if not _HAS_NUMBER.search(word))
                key = (line.is_error, words)
                seen = self._repeated.get(key)
                if not words or not self._fold:
                    _print(line)
                elif seen is None:
                    self._repeated[key] = _Repeated(line, now_s, 0, {line.pid})
                    _print(line)
                else:
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
            if now_s - seen.since_s <= FOLD_S:
                continue
            if seen.count > 1:
                _print(seen.line, f" [repeated {seen.count}x across cluster]")
                # A line that keeps coming stays folded.
                seen.count, seen.since_s = 0, now_s
                continue
            if seen.count:
                _print(seen.line)
            self._repeated.pop(key, None)


def _print(line: Line, suffix: str = "") -> None:
    stream = sys.stderr if line.is_error else sys.stdout
    who = f"({line.name} pid={line.pid})"
    if stream.isatty():
        who = f"{_COLOUR}{who}{_PLAIN}"
    # One write, so that no other output comes between.
    stream.write(f"{who} {line.text}{suffix}\n")
    stream.flush()
