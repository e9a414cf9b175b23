"""`get`, `put`, `wait` and `cancel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from cloudray import context, departed, ids
from cloudray.api.asked import ref_to_cancel, refs_to_get, refs_to_wait_for, timeout_s
from cloudray.api.tracebacks import shorten
from cloudray.refs import ObjectRef
from cloudray.values import dumps

R = TypeVar("R")


@overload
def get(refs: ObjectRef[R], *, timeout: float | None = None) -> R: ...
@overload
def get(refs: Sequence[ObjectRef[R]], *, timeout: float | None = None) -> list[R]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs; waits until they exist.

    With a list, raises the first error that turns up, without waiting for the rest. In a task,
    the task's slot is lent to others while it waits. NumPy arrays come back read-only.

    `timeout` is in seconds; 0 means: now or not at all.

    Raises `GetTimeoutError` when the time is up, and what the task raised (as an error that is
    both a `RayTaskError` and of the task's own exception class) when it failed;
    `ObjectLostError` for a ref of a cluster that was shut down.

    >>> import cloudray
    >>> cloudray.get(cloudray.put("hello"))
    'hello'
    """
    try:
        limit_s = timeout_s(timeout)
        wanted = refs_to_get(refs)
        values = context.client().get(wanted, limit_s)
        return values[0] if wanted is not refs else values
    except BaseException as error:
        shorten(error)
        raise


def put(value: R) -> ObjectRef[R]:
    """Store a value once, to be passed to many tasks; returns its ref.

    Raises TypeError for a ref (the value of a ref is in the store already) and for a value that
    cannot be pickled, naming the member that cannot; `ObjectLostError` for a value with a ref of
    a cluster that was shut down.

    >>> import cloudray
    >>> cloudray.get(cloudray.put([1, 2, 3]))
    [1, 2, 3]
    """
    if isinstance(value, ObjectRef):
        msg = (
            "Calling 'put' on an ObjectRef is not allowed. Pass the ref itself; to store a ref "
            "as a value, wrap it in a list."
        )
        raise TypeError(msg)
    try:
        serialized = dumps(value, "the value")
        if departed.jobs:
            departed.refuse(serialized.contains)
        ref: ObjectRef[R] = context.client().store_value(serialized.parts, serialized.contains)
    except BaseException as error:
        shorten(error)
        raise
    return ref


def wait(
    refs: list[ObjectRef[R]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[R]], list[ObjectRef[R]]]:
    """Wait until some refs are ready: their values, or their failures, exist.

    Returns the ready refs (`num_returns` of them, fewer only when `timeout` seconds passed
    first) and the others, both in the order given. `fetch_local` is accepted for Ray's sake.

    Raises TypeError when `refs` is not a list of refs, ValueError when one occurs twice or
    `num_returns` cannot be met, `ObjectLostError` for a ref of a cluster that was shut down.

    >>> import cloudray
    >>> ready, rest = cloudray.wait([cloudray.put(1), cloudray.put(2)])
    >>> len(ready), len(rest)
    (1, 1)
    """
    del fetch_local
    try:
        limit_s = timeout_s(timeout)
        wanted = refs_to_wait_for(refs, num_returns)
        return context.client().wait(wanted, num_returns, limit_s) if wanted else ([], [])
    except BaseException as error:
        shorten(error)
        raise


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Ask that a task stops, or never starts. Does nothing when it has finished.

    A running task gets a KeyboardInterrupt, or with `force` its process is killed. Who asks for
    its value gets `TaskCancelledError`. Tasks that it submitted are cancelled with it.

    Raises TypeError for anything but an `ObjectRef`, `ObjectLostError` for one of a cluster that
    was shut down.

    >>> import cloudray
    >>> cloudray.cancel(cloudray.remote(len).remote("abc"))
    """
    try:
        wanted = ref_to_cancel(ref)
        if ids.index_of(wanted.id) != ids.PUT_INDEX:  # what was put has no task
            context.client().cancel(wanted, force=force, recursive=recursive)
    except BaseException as error:
        shorten(error)
        raise
