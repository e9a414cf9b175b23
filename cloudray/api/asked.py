"""What `get`, `wait` and `cancel` are given, checked before anything is asked of the cluster.

Errors begin in Ray's words, and go on with what to do.
"""

from __future__ import annotations

import math
import reprlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cloudray import departed
from cloudray.refs import ObjectRef

#: Longer timeouts (s) are none at all: no clock of the operating system counts so far.
_LONGEST_S = threading.TIMEOUT_MAX
_SHOWN_CHARACTERS = 60


def timeout_s(timeout: Any) -> float | None:
    """A timeout in seconds, or None for no limit.

    Raises TypeError for anything but a number, ValueError for one below zero.

    >>> timeout_s(0.5), timeout_s(None), timeout_s(float("inf"))
    (0.5, None, None)
    """
    if timeout is None:
        return None
    if type(timeout) not in {int, float}:
        from numbers import Real  # NumPy's numbers are such

        if not isinstance(timeout, Real):
            msg = (
                "The 'timeout' argument must be a number of seconds or None, but received type "
                f"{type(timeout).__name__}."
            )
            raise TypeError(msg)
    if not -math.inf <= timeout <= math.inf:
        msg = "The 'timeout' argument must be a number of seconds or None, not NaN."
        raise ValueError(msg)
    if timeout < 0:
        msg = (
            f"The 'timeout' argument must be nonnegative. Received {timeout}. "
            "To wait without a limit, leave it out."
        )
        raise ValueError(msg)
    return None if timeout > _LONGEST_S else timeout


def refs_to_get(refs: Any) -> Sequence[ObjectRef[Any]]:
    """The refs of a list or tuple, or of a single ref; whether they can still be had.

    Raises ValueError for anything else, TypeError for a list with something else in it, and
    `ObjectLostError` for a ref of a cluster that was shut down.
    """
    if isinstance(refs, ObjectRef):
        refs = (refs,)
    elif not isinstance(refs, (list, tuple)):
        msg = (
            f"Invalid type of object refs, {type(refs)}, is given. 'get' takes an ObjectRef or a "
            f"list of ObjectRefs.{_advice(refs)}"
        )
        raise ValueError(msg)  # noqa: TRY004 - as Ray does
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            msg = (
                f"Attempting to call `get` on the value {shown(ref)}, which is not an ObjectRef: "
                f"item {index} of the list is of type {type(ref).__name__}.{_advice_inside(ref)}"
            )
            raise TypeError(msg)
    if departed.jobs:
        departed.refuse(ref.id for ref in refs)
    return refs  # type: ignore[no-any-return]


def refs_to_wait_for(refs: Any, num_returns: Any) -> Sequence[ObjectRef[Any]]:
    """The refs of a list or tuple, of which `num_returns` are to be waited for.

    Raises TypeError when they are no refs or `num_returns` is no int, ValueError when a ref
    occurs twice or there are not so many, and `ObjectLostError` for a ref of a cluster that was
    shut down.
    """
    if isinstance(refs, ObjectRef):
        msg = f"wait() expected a list of ObjectRef, got a single ObjectRef {refs!r}. Pass [ref]."
        raise TypeError(msg)
    if not isinstance(refs, (list, tuple)):
        msg = f"wait() expected a list of ObjectRef, got {type(refs)}.{_advice(refs)}"
        raise TypeError(msg)
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            msg = (
                f"wait() expected a list of ObjectRef, got list containing {type(ref)}: item "
                f"{index} is {shown(ref)}.{_advice_inside(ref)}"
            )
            raise TypeError(msg)
    if len(set(refs)) != len(refs):
        raise ValueError(_twice(refs))
    if type(num_returns) is not int and not hasattr(num_returns, "__index__"):
        msg = f"wait() expected an int as num_returns, got {type(num_returns)}."
        raise TypeError(msg)
    if refs and num_returns <= 0:
        msg = f"Invalid number of objects to return {num_returns}. Ask for 1 or more."
        raise ValueError(msg)
    if refs and num_returns > len(refs):
        msg = (
            "num_returns cannot be greater than the number of objects provided to wait: "
            f"{num_returns} were asked for, of {len(refs)}."
        )
        raise ValueError(msg)
    if departed.jobs:
        departed.refuse(ref.id for ref in refs)
    return refs


def ref_to_cancel(ref: Any) -> ObjectRef[Any]:
    """The ref, which must be a single one.

    Raises TypeError for anything else, and `ObjectLostError` for a ref of a cluster that was shut
    down.
    """
    if not isinstance(ref, ObjectRef):
        several = isinstance(ref, (list, tuple, set, frozenset, Iterator))
        advice = " Cancel them one by one: for ref in refs: cloudray.cancel(ref)."
        msg = f"cancel() only supported for object refs. Got: {type(ref)}."
        raise TypeError(msg + advice * several)
    if departed.jobs:
        departed.refuse((ref.id,))
    return ref


def shown(value: object) -> str:
    """A value as a message shows it: shortened, and whatever its class makes of `repr`.

    >>> shown([1, 2])
    '[1, 2]'
    """
    is_long = isinstance(value, (list, tuple, dict, set, frozenset, str, bytes, bytearray))
    try:
        # The first does not write all of a long value.
        found = reprlib.repr(value) if is_long else repr(value)
    except Exception:  # noqa: BLE001 - its class is the user's
        return f"a {type(value).__name__}"
    return found if len(found) <= _SHOWN_CHARACTERS else f"{found[:_SHOWN_CHARACTERS]}..."


def _twice(refs: Sequence[ObjectRef[Any]]) -> str:
    first: dict[ObjectRef[Any], int] = {}
    for index, ref in enumerate(refs):
        if first.setdefault(ref, index) != index:
            return (
                f"Wait requires a list of unique object refs: items {first[ref]} and {index} are "
                "the same. Pass list(dict.fromkeys(refs))."
            )
    return "Wait requires a list of unique object refs."


#: What to do, by what was given instead of refs; the first that fits.
_ADVICE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "A function with num_returns=0 returns None: there is nothing to wait for."),
    (str, "From the text of a ref, ObjectRef.from_hex() makes it again."),
    ((bytes, bytearray), "From the bytes of a ref, ObjectRef.from_binary() makes it again."),
    (dict, "Pass list(refs.values())."),
    (Iterable, "Pass list(refs)."),
)


def _advice(refs: object) -> str:
    if hasattr(refs, "remote"):
        return " Call it first: .remote() returns an ObjectRef."
    return next((f" {advice}" for kinds, advice in _ADVICE if isinstance(refs, kinds)), "")


def _advice_inside(item: object) -> str:
    if isinstance(item, (list, tuple)):
        return " Pass one flat list."
    if item is None or hasattr(item, "remote"):
        return _advice(item)
    return ""
