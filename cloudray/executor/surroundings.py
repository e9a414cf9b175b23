"""What a task finds around it: working directory, environment, signal handlers, standard output.

A task may change them, and the next one in the same process finds them as they were. What a
module sets up while it is imported stays, as the module does. Nothing is compared before a task:
the functions that change these things say so themselves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from cloudray.watching import watch

_DIRECTORY, _MASK = ("chdir", "fchdir"), ("umask",)
_SIGNALS = ("signal", "pthread_sigmask", "alarm", "setitimer")
_CLOSING = ("close", "closerange", "dup2")
_STANDARD_ERROR = 2
_IMPORTING = "<frozen importlib._bootstrap>"


class Surroundings:
    """Those of this process, as they are now. To be made and used by its main thread.

    `reconnect` makes the descriptors of standard output and error what they were.
    """

    def __init__(self, reconnect: Callable[[], None]) -> None:
        #: a task may have changed something
        self.changed = False
        self._reconnect = reconnect
        self._directory = os.getcwd()  # noqa: PTH109 - a text, as `chdir` takes it
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._recursion = sys.getrecursionlimit()
        self._needed_path = self._path = list(sys.path)
        self._environ = os.environ
        self._variables = dict(os.environ)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        functions: Any = sys.modules.get("posix", os)
        watch("os", (*_DIRECTORY, *_MASK), self._note, [functions])
        watch("os", _CLOSING, self._note_descriptor, [functions])
        # `os.environ` calls these.
        watch("os", ("putenv", "unsetenv"), self._note_variable)
        watch("signal", _SIGNALS, self._note_signal)

    def restore(self) -> None:
        """Put back what a task has changed."""
        if sys.path != self._path:
            self._mend_path()
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003 - the very one
            self.changed = True
        if not self.changed:
            return
        with contextlib.suppress(OSError):
            # It may be gone; then tasks are no better off than their driver.
            os.chdir(self._directory)
        os.umask(self._mask)
        self._reconnect()
        self._restore_variables()
        self._restore_signals()
        self.changed = False

    def _mend_path(self) -> None:
        # What was added may be where loaded modules look for more; what is missing is missed.
        needed = self._needed_path
        if not all(entry in sys.path for entry in needed):
            sys.path = [*(entry for entry in sys.path if entry not in needed), *needed]
        self._path = list(sys.path)

    def _restore_variables(self) -> None:
        for name in os.environ.keys() - self._variables.keys():
            del os.environ[name]
        for name, value in self._variables.items():
            os.environ[name] = value

    def _restore_signals(self) -> None:
        signal.alarm(0)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    # -- what is said by those who change something ------------------------------------------

    def _note(self, _name: str, _args: tuple[Any, ...]) -> None:
        self.changed = True

    def _note_descriptor(self, function: str, args: tuple[Any, ...]) -> None:
        # What is given by its keyword is taken for the worst.
        index = 1 if function == "dup2" else 0
        lowest = args[index] if len(args) > index else 0
        self.changed = self.changed or lowest <= _STANDARD_ERROR

    def _note_variable(self, function: str, args: tuple[Any, ...]) -> None:
        if not _is_importing(sys._getframe()):  # noqa: SLF001 - the one way to ask
            self.changed = True
            return
        name = os.fsdecode(args[0])
        if function == "putenv":
            self._variables[name] = os.fsdecode(args[1])
        else:
            self._variables.pop(name, None)

    def _note_signal(self, function: str, args: tuple[Any, ...]) -> None:
        if function == "signal" and args[1:] and _is_importing(sys._getframe()):  # noqa: SLF001
            self._handlers[args[0]] = args[1]
        else:
            self.changed = True


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported by a caller of this frame."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
