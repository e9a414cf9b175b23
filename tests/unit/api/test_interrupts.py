from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import TracebackType

import pytest

from cloudray.api.interrupts import Ending
from cloudray.exceptions import RaySystemError


class Program:
    """A program's own excepthook, and its end."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ending = Ending(lambda: self.told.append("ended"))

    def hook(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        del error, trace
        self.told.append(kind.__name__)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    program = Program()
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.setattr(sys, "excepthook", program.hook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    program.ending.arm()
    yield program
    program.ending.disarm()


def die_of(error: BaseException) -> None:
    """What the interpreter does with an exception that nobody catches."""
    sys.excepthook(type(error), error, None)


def test_an_uncaught_ctrl_c_ends_the_cluster_after_the_traceback(program: Program) -> None:
    die_of(KeyboardInterrupt())
    assert program.told == ["KeyboardInterrupt", "ended"]
    assert program.ending.came


def test_another_error_is_pythons_business(program: Program) -> None:
    die_of(ValueError())
    assert program.told == ["ValueError"]
    assert not program.ending.came


def test_who_types_python_goes_on_after_ctrl_c(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    die_of(KeyboardInterrupt())
    assert program.told == ["KeyboardInterrupt"]


def test_threads_that_waited_say_nothing_more(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    del program
    said: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(args.exc_type.__name__))
    die_of(KeyboardInterrupt())

    def fail(error: Exception) -> None:
        raise error

    for error in (RaySystemError("shut down"), ValueError("mine")):
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
    assert said == ["ValueError"]


def test_afterwards_the_programs_own_hook_is_back(program: Program) -> None:
    program.ending.arm()
    program.ending.disarm()
    assert sys.excepthook == program.hook


def test_a_hook_that_came_later_stays(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda *_: program.told.append("later"))
    program.ending.disarm()
    die_of(ValueError())
    assert program.told == ["later"]


def test_a_hook_that_came_later_may_call_ours(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = sys.excepthook
    monkeypatch.setattr(sys, "excepthook", partial(ours))
    program.ending.disarm()
    program.ending.arm()
    die_of(ValueError())
    assert program.told == ["ValueError"]


class Forgotten:
    """Presses Ctrl-C as it is forgotten, where nothing can be raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_python_would_lose_is_raised_a_moment_later(program: Program) -> None:
    heard = threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _ = Forgotten()
        with contextlib.suppress(KeyboardInterrupt):
            del _
            heard.wait(60)
            pytest.fail("it was lost")
    finally:
        signal.signal(signal.SIGINT, before)
    assert program.told == []


def test_what_else_cannot_be_raised_is_told_as_ever(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError

    program.ending.disarm()
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: program.told.append(args.exc_type.__name__)
    )
    program.ending.arm()
    Failing()
    assert program.told == ["ValueError"]
