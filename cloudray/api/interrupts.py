"""What Ctrl-C does beyond Python's own, while this process is in a cluster.

One that nobody catches ends the cluster, and says what that was. Python would first wait for
threads of the program, and those may be waiting for the cluster.

One that comes while an object is being forgotten (a ref, a mapped array) is not lost, as Python
would have it, which cannot raise anything there.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from cloudray.api.tracebacks import cut
from cloudray.exceptions import RaySystemError
from cloudray.interrupts import Shield

#: Far longer than it takes to leave the hook for what cannot be raised.
_MOMENT_S = 0.01
_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


class Ending:
    """Stands before `sys.excepthook` while this process is in a cluster.

    `end` leaves the cluster; it is called once, after the traceback has been printed.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._before: _Hook | None = None
        #: bound once, to be recognized
        self._hook: _Hook = self._uncaught
        self._before_unraisable: Callable[[sys.UnraisableHookArgs], Any] | None = None
        self._unraisable_hook = self._unraisable
        #: an uncaught Ctrl-C is ending this process
        self.came = False
        #: a Ctrl-C came before all that was submitted was stored
        self.cut_short = False

    def arm(self) -> None:
        """From now on an uncaught Ctrl-C ends the cluster."""
        if self._before is None:
            self._before, sys.excepthook = sys.excepthook, self._hook
        if self._before_unraisable is None:
            self._before_unraisable = sys.unraisablehook
            sys.unraisablehook = self._unraisable_hook

    def disarm(self) -> None:
        """Put back what was there, unless somebody else's hook stands before ours."""
        if sys.excepthook is self._hook and self._before is not None:
            sys.excepthook, self._before = self._before, None
        if sys.unraisablehook is self._unraisable_hook and self._before_unraisable is not None:
            sys.unraisablehook, self._before_unraisable = self._before_unraisable, None

    def _unraisable(self, args: sys.UnraisableHookArgs) -> None:
        if issubclass(args.exc_type, KeyboardInterrupt):
            # By a thread, a moment later: in here it would be lost again.
            _thread.start_new_thread(_press_again, ())
        else:
            (self._before_unraisable or sys.__unraisablehook__)(args)

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        interrupted = issubclass(kind, KeyboardInterrupt)
        show = self._before or sys.__excepthook__
        if interrupted:
            cut(trace)
            # Another one in here would have Python print the traceback's innards instead.
            with contextlib.suppress(KeyboardInterrupt), Shield():
                show(kind, error, trace)
        else:
            show(kind, error, trace)
        if interrupted and not _is_interactive():
            self.came = True
            _silence_threads()
            self._end()
            die_of_it()


def _press_again() -> None:
    time.sleep(_MOMENT_S)
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        # A true signal, which also ends what the main thread waits for.
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def die_of_it() -> None:
    """Let this process end as one that Ctrl-C ended, for the shell that waits for it.

    The interpreter notes that while code that it compiled fails so, and forgets it when more is
    compiled and run, as the modules that ending needs do.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102 - nothing of anybody's is run


def _is_interactive() -> bool:
    """Whether the user goes on after an error."""
    return (
        hasattr(sys, "ps1")
        or bool(sys.flags.interactive)
        or bool(sys.flags.inspect)
        or bool(os.environ.get("PYTHONINSPECT"))
    )


def _silence_threads() -> None:
    """Threads that waited for the cluster fail now; that says nothing new."""
    before = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, RaySystemError):
            before(args)

    threading.excepthook = report
