"""`get`, `put`, `wait` and `cancel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from cloudray import context
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
    both a `RayTaskError` and of the task's own exception class) when it failed.

    >>> import cloudray
    >>> cloudray.get(cloudray.put("hello"))
    'hello'
    """
    _check_timeout(timeout)
    if isinstance(refs, ObjectRef):
        return context.client().get((refs,), timeout)[0]
    if not isinstance(refs, (list, tuple)):
        msg = (
            "Invalid type of object refs. 'get' takes an ObjectRef or a list of ObjectRefs, "
            f"but received a {type(refs).__name__}."
        )
        raise ValueError(msg)  # noqa: TRY004 - as Ray does
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            msg = (
                f"Attempting to call 'get' on the value {ref!r}, which is a "
                f"{type(ref).__name__} and not an ObjectRef."
            )
            raise TypeError(msg)
    return context.client().get(refs, timeout)


def put(value: R) -> ObjectRef[R]:
    """Store a value once, to be passed to many tasks; returns its ref.

    Raises TypeError for a ref (the value of a ref is in the store already) and for a value that
    cannot be pickled, naming the member that cannot.

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
    client = context.client()
    serialized = dumps(value, "the value")
    for identifier in serialized.contains:
        client.escape(identifier)
    identifier = client.store_value(serialized.parts)
    return ObjectRef(identifier, client.anchor(identifier))


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
    `num_returns` cannot be met.

    >>> import cloudray
    >>> ready, rest = cloudray.wait([cloudray.put(1), cloudray.put(2)])
    >>> len(ready), len(rest)
    (1, 1)
    """
    del fetch_local
    _check_timeout(timeout)
    if isinstance(refs, ObjectRef):
        msg = "wait() expected a list of ObjectRef, got a single ObjectRef"
        raise TypeError(msg)
    if not isinstance(refs, (list, tuple)):
        msg = f"wait() expected a list of ObjectRef, got {type(refs)}"
        raise TypeError(msg)
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            msg = f"wait() expected a list of ObjectRef, got a list that contains {type(ref)}"
            raise TypeError(msg)
    if len(set(refs)) != len(refs):
        msg = "Wait requires a list of unique object refs."
        raise ValueError(msg)
    if not refs:
        return [], []
    if num_returns <= 0:
        msg = f"Invalid number of objects to return {num_returns}."
        raise ValueError(msg)
    if num_returns > len(refs):
        msg = "num_returns cannot be greater than the number of objects provided to wait"
        raise ValueError(msg)
    return context.client().wait(refs, num_returns, timeout)


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Ask that a task stops, or never starts. Does nothing when it has finished.

    A running task gets a KeyboardInterrupt, or with `force` its process is killed. Who asks for
    its value gets `TaskCancelledError`. Tasks that it submitted are cancelled with it.

    Raises TypeError for anything but an `ObjectRef`.

    >>> import cloudray
    >>> cloudray.cancel(cloudray.remote(len).remote("abc"))
    """
    if not isinstance(ref, ObjectRef):
        msg = f"cancel() only supported for object refs. Got: {type(ref)}."
        raise TypeError(msg)
    context.client().cancel(ref, force=force, recursive=recursive)


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        msg = "The 'timeout' argument must be nonnegative."
        raise ValueError(msg)
