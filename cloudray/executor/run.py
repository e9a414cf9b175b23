"""Running one call: unpickle, call, pickle, and say how it ended."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any

from cloudray.causes import format_traceback
from cloudray.exceptions import RayTaskError
from cloudray.protocol import messages as m
from cloudray.protocol.batching import MAX_INLINE_BYTES
from cloudray.protocol.records import Shape, Verb
from cloudray.values import codec
from cloudray.values.arguments import fill
from cloudray.values.outcomes import load

_NONE = (codec.dumps(None).to_bytes(),)


class Function:
    """A learned function: unpickled when it is first called."""

    __slots__ = ("_callable", "_pickled", "calls", "retryable", "shape")

    def __init__(self, shape: Shape, pickled: bytes) -> None:
        self.shape = shape
        self._pickled = pickled
        self._callable: Callable[..., Any] | None = None
        #: how often it was called in this process
        self.calls = 0
        #: which exceptions may be retried
        self.retryable: tuple[type[BaseException], ...] = ()

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        found = self._callable
        if found is None:
            found = pickle.loads(self._pickled)
            allowed = self.shape.retry_exceptions
            if isinstance(allowed, bytes):
                self.retryable = pickle.loads(allowed)
            elif allowed:
                self.retryable = (Exception,)
            self._callable = found
        return found


class Runner:
    """Runs calls on the main thread of an executor.

    `spool` writes a large value where the agent can adopt it, and returns the path.
    """

    def __init__(self, spool: Callable[[Sequence[Any]], str]) -> None:
        self._spool = spool
        #: the ticket whose user code is on the stack right now, else 0
        self.inside = 0

    def run(self, call: m.Call, function: Function) -> m.Outcome:
        """Run one call to its end; no exception of the user's leaves here but SystemExit."""
        started_ns = time.perf_counter_ns()
        retryable = False
        contains: tuple[bytes, ...] = ()
        try:
            try:
                target = function.load()
                args, kwargs = _arguments(call)
                started_ns = time.perf_counter_ns()
                self.inside = call.ticket
                result = target(*args, **kwargs)
                if type(result) is CoroutineType:
                    import asyncio  # most tasks need no event loop

                    result = asyncio.run(_finish(result))
            finally:
                self.inside = 0
            duration_us = (time.perf_counter_ns() - started_ns) // 1000
            values, contains = self._pack(result, function.shape)
            verb = Verb.DONE
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the call's outcome
            duration_us = (time.perf_counter_ns() - started_ns) // 1000
            retryable = isinstance(error, function.retryable)
            values = (self._pack_error(error, call, function.shape),)
            verb = Verb.FAILED
        return m.Outcome(call.ticket, verb, values, duration_us, contains, retryable)

    def _pack(self, result: Any, shape: Shape) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        count = shape.num_returns
        if count == 1:
            if result is None:
                return _NONE, ()
            serialized = codec.dumps(result, f"the result of {shape.name}")
            return (self._place(serialized),), serialized.contains
        if count == 0:
            return (), ()
        values: list[bytes] = []
        contained: list[bytes] = []
        for number, item in enumerate(_items(result, shape)):
            serialized = codec.dumps(item, f"result {number} of {shape.name}")
            values.append(self._place(serialized))
            contained += serialized.contains
        return tuple(values), tuple(contained)

    def _place(self, serialized: codec.Serialized) -> bytes:
        if serialized.size_bytes > MAX_INLINE_BYTES:
            return codec.local(self._spool(serialized.parts))
        return serialized.to_bytes()

    def _pack_error(self, error: BaseException, call: m.Call, shape: Shape) -> bytes:
        if isinstance(error, RayTaskError):
            # A failed dependency, fetched with `get` and not handled, stays the same failure.
            task_error = error
        else:
            task_error = RayTaskError(
                shape.name,
                format_traceback(error),
                error,
                task_id=call.place.hex(),
                pid=os.getpid(),
                ip=socket.gethostname(),
            )
        try:
            return self._place(codec.dumps(task_error, "the exception"))
        except Exception as unpicklable:  # noqa: BLE001 - user code decides what it raises here
            bare = RayTaskError(
                shape.name,
                f"{format_traceback(error)}\n(the exception itself could not be pickled: "
                f"{unpicklable})",
                None,
                task_id=call.place.hex(),
                pid=os.getpid(),
                ip=socket.gethostname(),
            )
            return codec.dumps(bare, "the exception").to_bytes()


async def _finish(result: Any) -> Any:
    return await result


def _arguments(call: m.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not call.arguments:
        return (), {}
    args, kwargs = load(call.arguments)
    return fill(args, kwargs, [load(value) for value in call.values])


def _items(result: Any, shape: Shape) -> Sequence[Any]:
    count = shape.num_returns
    try:
        items = tuple(result)
    except TypeError:
        msg = (
            f"{shape.name} has num_returns={count} but returned a "
            f"{type(result).__name__}, which is not a sequence of {count} values"
        )
        raise TypeError(msg) from None
    if len(items) != count:
        msg = f"{shape.name} has num_returns={count} but returned {len(items)} values"
        raise ValueError(msg)
    return items
