"""What Ctrl-C, and signals as such, must not break: starting a cluster, holding a lock, waiting."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self


class Shield:
    """A stretch of code that Ctrl-C does not enter: it is raised when the stretch is over.

    What takes long, and may be left at any point, goes into `lifted`. Shields may be nested: the
    outermost one counts. Only the main thread is ever interrupted, so elsewhere a shield does
    nothing; nor does it where Ctrl-C is ignored, or somebody handles it outside Python.

    >>> with Shield() as shield:
    ...     with shield.lifted():
    ...         print("anything that may take long")
    anything that may take long
    """

    #: what handles Ctrl-C outside the outermost shield; None while there is no shield
    _outside: Callable[[int, FrameType | None], Any] | None = None
    #: Ctrl-C came, and has not been raised
    _noted = False

    def __init__(self) -> None:
        self._is_outermost = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and Shield._outside is None:
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                signal.signal(signal.SIGINT, _note)
                self._is_outermost = True
                Shield._outside = handler
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        outside = Shield._outside
        if self._is_outermost and outside is not None:
            Shield._outside = None
            signal.signal(signal.SIGINT, outside)
            if self.swallow() and not (kind and issubclass(kind, KeyboardInterrupt)):
                outside(signal.SIGINT, None)

    @staticmethod
    def swallow() -> bool:
        """Forget a Ctrl-C that came; whether one did. For a process that ends anyway."""
        noted, Shield._noted = Shield._noted, False
        return noted

    @staticmethod
    @contextlib.contextmanager
    def lifted() -> Iterator[None]:
        """Here Ctrl-C is raised at once, as is one that came before."""
        outside = Shield._outside
        if outside is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        try:
            signal.signal(signal.SIGINT, outside)
            if Shield.swallow():
                outside(signal.SIGINT, None)
            yield
        finally:
            signal.signal(signal.SIGINT, _note)


def _note(_signal: int, _frame: FrameType | None) -> None:
    Shield._noted = True  # noqa: SLF001 - its own module


class Bell:
    """Rung by any thread, heard by one; rung again before it is heard, it still counts once.

    A lock that is taken while nobody rings. `queue.SimpleQueue` will not do: when a signal comes
    as the time of a `get` is up, CPython takes what is left of it for no limit, and waits for ever.
    """

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Let whoever listens, now or next, hear it."""
        with contextlib.suppress(RuntimeError):  # it was rung already
            self._silence.release()

    def listen(self, timeout_s: float) -> bool:
        """Wait until it is rung, or the time is up; whether it was rung."""
        return self._silence.acquire(timeout=timeout_s)
