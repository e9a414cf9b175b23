"""Running one call: unpickle, call, pickle, and say how it ended."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable, Sequence
from itertools import islice
from types import CoroutineType
from typing import Any

from cloudray.causes import format_traceback, with_frames_of_theirs
from cloudray.exceptions import ObjectLostError, ObjectStoreFullError, RayTaskError
from cloudray.protocol import messages as m
from cloudray.protocol.batching import MAX_INLINE_BYTES
from cloudray.protocol.failures import timed_out
from cloudray.protocol.records import Shape, Verb
from cloudray.sizes import show_size
from cloudray.store.base import StoreFullError
from cloudray.values import codec
from cloudray.values.arguments import fill
from cloudray.values.inspect import ON_WORKER, missing_module, not_unpickled, told
from cloudray.values.outcomes import error_payload, load

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
            try:
                found = pickle.loads(self._pickled)
                allowed = self.shape.retry_exceptions
                if isinstance(allowed, bytes):
                    self.retryable = pickle.loads(allowed)
                elif allowed:
                    self.retryable = (Exception,)
            except Exception as error:  # noqa: BLE001 - the user's classes may raise anything
                msg = (
                    f"The remote function {self.shape.function_name} failed to import on the "
                    f"worker ({told(error)}). "
                    + (
                        missing_module(error)
                        or "This may be because needed library dependencies are not installed in "
                        "the worker environment."
                    )
                )
                raise RuntimeError(msg) from with_frames_of_theirs(error)
            self._callable = found
        return found


class Runner:
    """Runs calls on the main thread of an executor.

    `spool` writes a large value where the agent can adopt it, and returns the path; `discard`
    removes such a file again.
    """

    def __init__(
        self,
        spool: Callable[[Sequence[Any]], str],
        discard: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._discard = discard
        #: the ticket whose user code is on the stack right now, else 0
        self.inside = 0
        #: the ticket whose time is over: if it fails, it fails for that reason
        self.expired = 0
        #: the ticket that was interrupted for that reason: it fails whatever it does
        self.stopped = 0
        #: what the last call returned or raised: refs in it live until its outcome is on its way
        self.kept: object = None

    def run(self, call: m.Call, function: Function) -> m.Outcome:
        """Run one call to its end; no exception of the user's leaves here but SystemExit."""
        started_ns = time.perf_counter_ns()
        retryable = False
        #: what is raised outside of the user's code is ours to explain
        is_refusal = True
        contains: tuple[bytes, ...] = ()
        try:
            try:
                target = function.load()
                args, kwargs = _arguments(call, function.shape)
                started_ns = time.perf_counter_ns()
                self.inside = call.ticket
                is_refusal = False
                self.kept = result = target(*args, **kwargs)
                if type(result) is CoroutineType:
                    import asyncio  # most tasks need no event loop

                    self.kept = result = asyncio.run(_finish(result))
            finally:
                self.inside = 0
            duration_us = (time.perf_counter_ns() - started_ns) // 1000
            is_refusal = True
            if self.stopped == call.ticket:
                return _too_late(call, function.shape, duration_us)
            values, contains = self._pack(result, function.shape)
            verb = Verb.DONE
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the call's outcome
            duration_us = (time.perf_counter_ns() - started_ns) // 1000
            self.kept = error
            retryable = isinstance(error, function.retryable)
            trace = format_traceback(error, is_refusal=is_refusal)
            if not is_refusal and (advice := missing_module(error)):
                # The task has looked for it itself, late.
                trace = f"{trace}\n{advice}"
            if self.expired == call.ticket:
                return _too_late(call, function.shape, duration_us, trace)
            payload, contains = self._pack_error(error, trace, call, function.shape)
            values = (payload,)
            verb = Verb.FAILED
        return m.Outcome(call.ticket, verb, values, duration_us, contains, retryable)

    def _pack(self, result: Any, shape: Shape) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        count = shape.num_returns
        if count == 1:
            if result is None:
                return _NONE, ()
            what = f"the result of {shape.name}"
            serialized = codec.dumps(result, what)
            self._keep(serialized)
            return (self._place(serialized, what),), serialized.contains
        if count == 0:
            return (), ()
        values: list[bytes] = []
        contained: list[bytes] = []
        try:
            for number, item in enumerate(_items(result, shape)):
                what = f"result {number} of {shape.name}"
                serialized = codec.dumps(item, what)
                self._keep(serialized)
                values.append(self._place(serialized, what))
                contained += serialized.contains
        except BaseException:
            for value in values:
                path = codec.local_path(value)
                if path is not None:
                    self._discard(path)
            raise
        return tuple(values), tuple(contained)

    def _keep(self, serialized: codec.Serialized) -> None:
        """Refs that were made for the pickle alone live as long as those in the value itself."""
        if serialized.refs:
            self.kept = (self.kept, serialized.refs)

    def _place(self, serialized: codec.Serialized, what: str) -> bytes:
        """A value as it travels; `what` names it when there is no room for it."""
        if serialized.size_bytes > MAX_INLINE_BYTES:
            try:
                return codec.local(self._spool(serialized.parts))
            except StoreFullError as full:
                size = show_size(serialized.size_bytes)
                msg = f"There is no room for {what} ({size}). {full}"
                raise ObjectStoreFullError(msg) from None
        return serialized.to_bytes()

    def _pack_error(
        self, error: BaseException, trace: str, call: m.Call, shape: Shape
    ) -> tuple[bytes, tuple[bytes, ...]]:
        if isinstance(error, RayTaskError):
            # A failed dependency, fetched with `get` and not handled, stays the same failure.
            task_error = error
        else:
            task_error = RayTaskError(
                shape.name,
                trace,
                error,
                task_id=call.place.hex(),
                pid=os.getpid(),
                ip=socket.gethostname(),
            )
        try:
            serialized = codec.dumps(task_error, "the exception")
            self._keep(serialized)
            what = f"the exception of {shape.name}"
            return self._place(serialized, what), serialized.contains
        except Exception as unpicklable:  # noqa: BLE001 - user code decides what it raises here
            bare = RayTaskError(
                shape.name,
                f"{trace}\n(the exception itself could not be pickled: {unpicklable})",
                None,
                task_id=call.place.hex(),
                pid=os.getpid(),
                ip=socket.gethostname(),
            )
            return codec.dumps(bare, "the exception").to_bytes(), ()


def _too_late(call: m.Call, shape: Shape, duration_us: int, trace: str = "") -> m.Outcome:
    """The outcome of a call whose time was over; `trace` says where it was then."""
    error = timed_out(shape, call.place, call.attempt, traceback_str=trace)
    payload = error_payload(error)
    return m.Outcome(
        call.ticket, Verb.FAILED, (payload,), duration_us, retryable=shape.retry_timeouts
    )


async def _finish(result: Any) -> Any:
    return await result


def _arguments(call: m.Call, shape: Shape) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not call.arguments:
        return (), {}
    try:
        args, kwargs = load(call.arguments)
        values = [load(value) for value in call.values]
    except ObjectLostError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's classes may raise anything
        raised = not_unpickled(f"an argument of {shape.name}", ON_WORKER, error)
        raise raised from raised.__cause__
    return fill(args, kwargs, values)


def _items(result: Any, shape: Shape) -> Sequence[Any]:
    count = shape.num_returns
    try:
        # One more than there may be shows that there are too many, also of a generator without end.
        items = tuple(result if hasattr(result, "__len__") else islice(result, count + 1))
    except TypeError:
        msg = (
            f"{shape.name} has num_returns={count} but returned a value of type "
            f"{type(result).__name__}, which is not a sequence of {count} values"
        )
        raise TypeError(msg) from None
    if len(items) != count:
        more = "more than " * (len(items) > count and not hasattr(result, "__len__"))
        number = count if more else len(items)
        values = "value" if number == 1 else "values"
        msg = f"{shape.name} has num_returns={count} but returned {more}{number} {values}"
        raise ValueError(msg)
    return items
