"""Procedures: generators that yield operations and are sent the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar

import msgspec

from cloudray.store.base import Op, Store, StoreError
from cloudray.store.envelope import RecordError

T = TypeVar("T")


class Together(msgspec.Struct, frozen=True):
    """Operations that may be performed at the same time; the answer is a list of their answers.

    Who yields it is right whatever their order. All are over when it is answered, or when the
    first of their errors, in the order given, is thrown.
    """

    ops: tuple[Op, ...]


#: Yields operations, is sent their answers (or has the `StoreError` thrown into it that they raise,
#: or the `RecordError` of a record that is not to be trusted), returns T.
Procedure: TypeAlias = Generator[Op | Together, Any, T]


def drive(store: Store, procedure: Procedure[T]) -> T:
    """Run a procedure against a store, blocking, and return what it returns.

    >>> from cloudray.store import Get, MemoryStore
    >>> def read(key): return (yield Get(key))
    >>> drive(MemoryStore(), read("absent")) is None
    True
    """
    return run(store.perform, procedure)


def drive_locked(store: Store, lock: AbstractContextManager[Any], procedure: Procedure[T]) -> T:
    """Run a procedure that changes what a lock guards, which is held at each of its steps.

    It is not held while the store answers, which may take long. So others may step in between,
    and the procedure must allow for what they do.
    """
    return run(store.perform, _Locked(lock, procedure))


class _Locked(Generator[Any, Any, T]):
    """A procedure whose steps are taken under a lock."""

    def __init__(self, lock: AbstractContextManager[Any], procedure: Procedure[T]) -> None:
        self._lock = lock
        self._procedure = procedure

    def send(self, value: Any) -> Any:
        with self._lock:
            return self._procedure.send(value)

    def throw(self, *error: Any) -> Any:
        with self._lock:
            return self._procedure.throw(*error)


async def drive_async(store: Store, procedure: Procedure[T]) -> T:
    """Run a procedure against a store on the event loop.

    Against an `inline` store it does not suspend, unless an operation is large.
    """
    return await run_async(store.perform_async, procedure)


def run(
    perform: Callable[[Any], Any],
    procedure: Generator[Any, Any, T],
    answer: Any = None,
    error: StoreError | RecordError | None = None,
) -> T:
    """Run a procedure with `perform` answering, from its first yield or from a later one.

    `answer` or `error` resume a procedure that waits at a yield.
    """
    try:
        while True:
            op = procedure.send(answer) if error is None else procedure.throw(error)
            error = None
            try:
                answer = [perform(each) for each in op.ops] if type(op) is Together else perform(op)
            except (StoreError, RecordError) as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result


async def run_async(
    perform: Callable[[Any], Awaitable[Any]],
    procedure: Generator[Any, Any, T],
    answer: Any = None,
    error: StoreError | RecordError | None = None,
) -> T:
    """Do what `run` does, awaiting each answer."""
    try:
        while True:
            op = procedure.send(answer) if error is None else procedure.throw(error)
            error = None
            try:
                if type(op) is Together:
                    answer = await _together(perform, op)
                else:
                    answer = await perform(op)
            except (StoreError, RecordError) as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _together(perform: Callable[[Any], Awaitable[Any]], op: Together) -> list[Any]:
    import asyncio

    answers = await asyncio.gather(*map(perform, op.ops), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return list(answers)
