from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cloudray.interrupts import Bell, Shield
from tests.integration.programs import ROOT

# What is raised comes out of a whole block here, which is what these tests are about.
# ruff: noqa: PT012


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """Whatever the test does, the handler is the usual one before and after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    found = signal.signal(signal.SIGINT, before)
    assert found is signal.default_int_handler
    assert not Shield.swallow()


def press() -> None:
    """Play a Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def test_what_is_begun_is_done_as_a_whole() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield():
        press()
        done.append("all of it")
    assert done == ["all of it"]


def test_without_ctrl_c_nothing_is_raised() -> None:
    with Shield():
        pass


def test_pressed_twice_it_is_raised_once() -> None:
    with pytest.raises(KeyboardInterrupt), Shield():
        press()
        press()


def test_where_a_shield_is_lifted_ctrl_c_is_raised_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield() as shield:
        with shield.lifted():
            press()
            done.append("never")
        done.append("never")
    assert done == []


def test_one_that_came_before_is_raised_where_the_shield_is_lifted() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield():
        press()
        done.append("shielded")
        with Shield.lifted():
            done.append("never")
    assert done == ["shielded"]


def test_after_lifting_a_shield_is_up_again() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield():
        with Shield.lifted():
            pass
        press()
        done.append("shielded")
    assert done == ["shielded"]


def test_cleaning_up_after_ctrl_c_is_shielded_too() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield():
        try:
            with Shield.lifted():
                press()
        finally:
            press()
            done.append("clean")
    assert done == ["clean"]


def test_the_outermost_shield_counts() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Shield():
        with Shield():
            press()
        done.append("outside the inner one")
    assert done == ["outside the inner one"]


def test_lifting_an_inner_shield_lifts_all() -> None:
    with pytest.raises(KeyboardInterrupt), Shield(), Shield() as inner, inner.lifted():
        press()


def test_an_error_is_not_lost_for_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, Shield():
        press()
        raise ValueError("no tea")
    assert isinstance(raised.value.__context__, ValueError)


def test_ctrl_c_can_be_swallowed_at_the_end_of_a_process() -> None:
    with Shield() as shield:
        press()
        assert shield.swallow()


def test_other_threads_need_no_shield() -> None:
    handlers = []

    def work() -> None:
        with Shield(), Shield.lifted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Shield():
        press()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_the_users_own_handler_is_called_afterwards() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    with Shield():
        press()
        assert heard == []
    assert heard == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_bell_that_is_rung_is_heard_once_however_often_it_was_rung() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.listen(0.0)
    assert not bell.listen(0.0)


def test_signals_do_not_make_a_thread_wait_for_ever() -> None:
    program = """
import os, signal, subprocess, sys, threading, time
from cloudray.interrupts import Bell

signal.signal(signal.SIGINT, lambda *_: None)
rounds = 0
over = False

def listen():
    global rounds
    bell = Bell()
    while not over:
        bell.listen(0.0005)
        rounds += 1

thread = threading.Thread(target=listen)
thread.start()
flood = "import os, signal\\nfor _ in range(200_000): os.kill(%d, signal.SIGINT)" % os.getpid()
subprocess.run([sys.executable, "-c", flood], check=True)
before = rounds
while rounds == before:
    time.sleep(0.001)
over = True
thread.join()
print("it still listens")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.stdout == "it still listens\n", done.stderr
