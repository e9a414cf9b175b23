"""Futures end on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cloudray.exceptions import TaskCancelledError
from cloudray.values import dumps
from cloudray.values.futures import Settler
from cloudray.values.outcomes import CANCELLED, DONE, Outcome

ID = bytes(29)


@pytest.fixture
def settler() -> Iterator[Settler]:
    settler = Settler()
    yield settler
    settler.close()


def done(value: object) -> Outcome:
    return Outcome(DONE, dumps(value).to_bytes(), ID)


def test_a_future_ends_with_the_value(settler: Settler) -> None:
    future: Future[Any] = Future()
    settler.settle(future, done("tea"))
    assert future.result(10) == "tea"


def test_a_future_ends_with_the_error(settler: Settler) -> None:
    future: Future[Any] = Future()
    settler.settle(future, Outcome(CANCELLED, b"", ID))
    assert isinstance(future.exception(10), TaskCancelledError)


def test_callbacks_run_elsewhere_than_where_the_outcome_was_learned(settler: Settler) -> None:
    future: Future[Any] = Future()
    threads: list[threading.Thread] = []
    called = threading.Event()

    def then(_: Future[Any]) -> None:
        threads.append(threading.current_thread())
        called.set()

    future.add_done_callback(then)
    settler.settle(future, done(1))
    assert called.wait(10)
    assert threads[0] is not threading.current_thread()


def test_a_future_that_was_given_up_is_passed_over(settler: Settler) -> None:
    given_up: Future[Any] = Future()
    given_up.cancel()
    after: Future[Any] = Future()
    settler.settle(given_up, done(1))
    settler.settle(after, done(2))
    assert after.result(10) == 2
    assert given_up.cancelled()


def test_what_is_on_its_way_ends_before_the_thread_does(settler: Settler) -> None:
    futures: list[Future[Any]] = [Future() for _ in range(100)]
    for number, future in enumerate(futures):
        settler.settle(future, done(number))
    settler.close()
    assert [future.result(0) for future in futures] == list(range(100))


def test_a_callback_may_close_what_it_runs_on(settler: Settler) -> None:
    future: Future[Any] = Future()
    closed = threading.Event()

    def then(_: Future[Any]) -> None:
        settler.close()
        closed.set()

    future.add_done_callback(then)
    settler.settle(future, done(1))
    assert closed.wait(10)


def test_closing_what_was_never_used_is_nothing(settler: Settler) -> None:
    settler.close()
