"""What a task finds around it; what is changed is put back, in a process that can be spoilt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cloudray.executor.surroundings import Surroundings

Step = Callable[[Surroundings], None]


def in_a_child(look: Callable[[list[int]], Any]) -> str:
    """What a forked process finds, as text; it is asked with the calls of `reconnect` so far."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, repr(look([])).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as file:
        return file.read()


def change_directory() -> None:
    os.chdir("/")


def change_variables() -> None:
    os.environ["RUDE"] = "1"
    del os.environ["PATH"]


def change_umask() -> None:
    os.umask(0o777)


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def set_a_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)


def forget_paths() -> None:
    sys.path.clear()


def limit_recursion() -> None:
    sys.setrecursionlimit(100)


def found() -> tuple[Any, ...]:
    mask = os.umask(0o22)
    os.umask(mask)
    return (
        os.getcwd(),  # noqa: PTH109 - the text itself is compared
        dict(os.environ),
        mask,
        signal.getsignal(signal.SIGINT),
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        signal.getitimer(signal.ITIMER_REAL),
        set(sys.path),
        sys.getrecursionlimit(),
    )


@pytest.mark.parametrize(
    "change",
    [
        change_directory,
        change_variables,
        change_umask,
        ignore_interrupts,
        block_interrupts,
        set_a_timer,
        forget_paths,
        limit_recursion,
    ],
    ids=lambda change: change.__name__,
)
def test_a_change_is_put_back(change: Callable[[], None]) -> None:
    def look(_: list[int]) -> tuple[bool, bool]:
        surroundings = Surroundings(lambda: None)
        before = found()
        change()
        changed = found() != before
        surroundings.restore()
        return changed, found() == before

    assert in_a_child(look) == "(True, True)"


def test_where_nothing_was_changed_nothing_is_done() -> None:
    def look(reconnected: list[int]) -> tuple[list[int], bool]:
        surroundings = Surroundings(lambda: reconnected.append(1))
        os.close(os.open(os.devnull, os.O_RDONLY))
        surroundings.restore()
        return reconnected, surroundings.changed

    assert in_a_child(look) == "([], False)"


@pytest.mark.parametrize(
    "close",
    [
        lambda: os.close(1),
        lambda: os.closerange(0, 2),
        lambda: os.dup2(0, 2),
        lambda: os.dup2(fd=0, fd2=2),
    ],
)
def test_standard_output_is_connected_again_when_it_was_closed(close: Callable[[], None]) -> None:
    def look(reconnected: list[int]) -> list[int]:
        surroundings = Surroundings(lambda: reconnected.append(1))
        close()
        surroundings.restore()
        surroundings.restore()
        return reconnected

    assert in_a_child(look) == "[1]"


def test_paths_that_were_added_stay() -> None:
    def look(_: list[int]) -> tuple[bool, bool]:
        surroundings = Surroundings(lambda: None)
        kept = list(sys.path)
        sys.path = ["/added"]
        surroundings.restore()
        return sys.path[0] == "/added", sys.path[1:] == kept

    assert in_a_child(look) == "(True, True)"


def test_a_higher_recursion_limit_stays() -> None:
    def look(_: list[int]) -> int:
        surroundings = Surroundings(lambda: None)
        sys.setrecursionlimit(98_765)
        surroundings.restore()
        return sys.getrecursionlimit()

    assert in_a_child(look) == "98765"
