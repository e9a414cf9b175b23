"""Procedures: generators that yield operations and are sent the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

from cloudray.store.base import Op, Store, StoreError

T = TypeVar("T")
#: Yields operations, is sent their answers (or has their `StoreError` thrown into it), returns T.
Procedure: TypeAlias = Generator[Op, Any, T]


def drive(store: Store, procedure: Procedure[T]) -> T:
    """Run a procedure against a store, blocking, and return what it returns.

    >>> from cloudray.store import Get, MemoryStore
    >>> def read(key): return (yield Get(key))
    >>> drive(MemoryStore(), read("absent")) is None
    True
    """
    return run(store.perform, procedure)


async def drive_async(store: Store, procedure: Procedure[T]) -> T:
    """Run a procedure against a store on the event loop.

    Against an `inline` store it does not suspend, unless an operation is large.
    """
    return await run_async(store.perform_async, procedure)


def run(
    perform: Callable[[Any], Any],
    procedure: Generator[Any, Any, T],
    answer: Any = None,
    error: StoreError | None = None,
) -> T:
    """Run a procedure with `perform` answering, from its first yield or from a later one.

    `answer` or `error` resume a procedure that waits at a yield.
    """
    try:
        while True:
            op = procedure.send(answer) if error is None else procedure.throw(error)
            error = None
            try:
                answer = perform(op)
            except StoreError as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result


async def run_async(
    perform: Callable[[Any], Awaitable[Any]],
    procedure: Generator[Any, Any, T],
    answer: Any = None,
    error: StoreError | None = None,
) -> T:
    """Do what `run` does, awaiting each answer."""
    try:
        while True:
            op = procedure.send(answer) if error is None else procedure.throw(error)
            error = None
            try:
                answer = await perform(op)
            except StoreError as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result
