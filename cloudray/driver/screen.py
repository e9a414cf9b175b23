"""Where a driver shows what passes: a line at the bottom of a terminal, a cell of a notebook."""

from __future__ import annotations

import contextlib
import html
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from cloudray import configuration
from cloudray.driver.progress import Display, Report

#: Left free at the end of the line, so that an echoed ^C does not begin another one.
_MARGIN = 3
_BAR_WIDTH = 16
_ERASE = "\r\x1b[2K"
_NO_CONTROL_CODES = ("dumb", "unknown")


def notebook_shell() -> Any:
    """The IPython shell of a notebook's kernel; None elsewhere. Never loads IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether somebody looks at what is written there."""
    try:
        return stream is not None and stream.isatty()
    except (ValueError, OSError):
        # Closed, or of a kind that cannot tell.
        return False


def somebody_looks_on() -> bool:
    """Whether standard error is a terminal, or this is a notebook."""
    return is_terminal(sys.stderr) or notebook_shell() is not None


def open_display() -> Display | None:
    """Where progress is shown; None where nobody would see it, or nobody wants to."""
    if not configuration.current().progress:
        return None
    if notebook_shell() is not None:
        return Cell()
    stream = sys.stderr
    if not is_terminal(stream) or os.environ.get("TERM") in _NO_CONTROL_CODES:
        return None
    draw = Drawing(stream)
    return None if draw.console.legacy_windows else Line(stream, draw)


def words_of(report: Report) -> list[tuple[str, str]]:
    """What a report says, in words, each with the colour it has.

    >>> report = Report(total=9, done=4, failed=1, running=2, elapsed_s=8, per_second=0.5, eta_s=10)
    >>> ", ".join(text for text, _ in words_of(report))
    '4/9 done, 2 running, 3 queued, 1 failed, 0.5/s, ETA 0:10'
    """
    words = [(f"{report.done}/{report.total} done", "bold")]
    words += [(f"{report.running} running", "cyan")] if report.running else []
    words += [(f"{report.queued} queued", "")] if report.queued else []
    words += [(f"{report.failed} failed", "bold red")] if report.failed else []
    if report.per_second:
        words.append((_rate(report.per_second), "dim"))
    if report.eta_s is None:
        words.append((_clock_time(report.elapsed_s), "dim"))
    else:
        words.append((f"ETA {_clock_time(report.eta_s)}", "dim"))
    return words


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"  # noqa: PLR2004
    per_minute = per_second * 60
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"{per_minute:.1f}/min"  # noqa: PLR2004


def _clock_time(seconds: float) -> str:
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"


class Drawing:
    """Draws reports as one coloured line that fits the terminal."""

    def __init__(self, stream: IO[str]) -> None:
        # Loaded when the first wait is long: most are not.
        from rich.console import Console

        self.console = Console(file=stream, highlight=False)

    def __call__(self, report: Report) -> str:
        """A report as text with control codes, narrower than the terminal is now."""
        from rich.text import Text

        width = max(1, self.console.width - _MARGIN)
        line = Text(", ").join([Text(words, style) for words, style in words_of(report)])
        if line.cell_len + _BAR_WIDTH < width:
            filled = _BAR_WIDTH * report.done // max(1, report.total)
            full, empty = ("#", "-") if self.console.options.ascii_only else ("\u2501", "\u2501")
            bar = [(full * filled, "green"), (empty * (_BAR_WIDTH - filled), "bright_black")]
            line = Text.assemble(*bar, " ", line)
        line.truncate(width, overflow="ellipsis")
        with self.console.capture() as captured:
            self.console.print(line, end="", no_wrap=True, crop=False, soft_wrap=True)
        return captured.get()


class Line:
    """One line at the bottom of a terminal; what else is written there appears above it.

    While it is shown, whatever Python code writes to the terminal passes through here: the line
    goes first, and comes back when the text has ended its own line.
    """

    def __init__(self, stream: IO[str], draw: Callable[[Report], str]) -> None:
        self._stream = stream
        self._draw = draw
        self._pid = os.getpid()
        # A signal handler may write while its thread draws.
        self._lock = threading.RLock()
        self._visible = False
        #: somebody else's text stands where the line belongs
        self._in_line = False
        self._tapped: list[IO[str]] = []

    def show(self, report: Report) -> None:
        """Draw a report in the place of the last one."""
        line = self._draw(report)
        with self._lock, contextlib.suppress(OSError, ValueError):
            if not self._tapped:
                self._in_line = False
                self._tap()
            if not self._in_line:
                self._visible = True
                self._write(f"{_ERASE}{line}")

    def clear(self) -> None:
        """Remove the line."""
        with self._lock:
            self._untap()
            with contextlib.suppress(OSError, ValueError):
                self._erase()

    def _erase(self) -> None:
        if self._visible:
            self._write(_ERASE)
            self._visible = False

    def _write(self, text: str) -> None:
        # Not through the instance: that is tapped.
        type(self._stream).write(self._stream, text)
        self._stream.flush()

    def _tap(self) -> None:
        for stream in {id(stream): stream for stream in (sys.stdout, sys.stderr)}.values():
            if is_terminal(stream) and "write" not in getattr(stream, "__dict__", {"write": None}):
                stream.write = self._tap_of(stream)  # type: ignore[method-assign]
                self._tapped.append(stream)

    def _untap(self) -> None:
        while self._tapped:
            with contextlib.suppress(AttributeError):
                del self._tapped.pop().write

    def _tap_of(self, stream: IO[str]) -> Callable[[str], int]:
        write = stream.write

        def tapped(text: str, /) -> int:
            if not text or os.getpid() != self._pid:
                # In a forked child the line is its parent's, and the lock may be held for ever.
                return write(text)
            with self._lock:
                self._erase()
                self._in_line = not text.endswith("\n")
                return write(text)

        return tapped


class Cell:
    """A line of HTML under the running cell of a notebook, which changes in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, report: Report) -> None:
        """Show a report in the place of the last one."""
        self._display(
            f"<progress value='{report.done}' max='{report.total}'></progress> "
            + html.escape(", ".join(text for text, _ in words_of(report))),
            ", ".join(text for text, _ in words_of(report)),
        )

    def clear(self) -> None:
        """Empty it."""
        if self._handle is not None:
            self._display("", "")
            self._handle = None

    def _display(self, body: str, text: str) -> None:
        from IPython.display import display  # loaded already

        bundle = {"text/html": body, "text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
