"""Arguments of calls: refs at top level become placeholders, to be replaced by their values."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from cloudray.refs import ObjectRef
from cloudray.values.codec import PLAIN, WHOLE_BYTES, Buffer, Serialized, dumps, loads
from cloudray.values.pickling import PROTOCOL


class Placeholder:
    """Stands where a ref stood; `position` counts the refs of one call."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def __reduce__(self) -> tuple[type[Placeholder], tuple[int]]:
        return Placeholder, (self.position,)


#: What no arguments are.
NOTHING = Serialized((b"",), 0)


def pack_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], function: str, names: Sequence[str] = ()
) -> tuple[Serialized, tuple[bytes, ...]]:
    """Serialize the arguments of a call; returns them and the ids of its top-level refs.

    No arguments are no bytes. Refs inside containers stay refs, as in Ray. Errors name the
    `function`, and positional arguments by the `names` of its parameters, if it has so many.

    Raises what `dumps` raises, about the argument that cannot be pickled.
    """
    if not kwargs:
        if not args:
            return NOTHING, ()
        for value in args:
            kind = type(value)
            if kind not in PLAIN or (kind is bytes and len(value) >= WHOLE_BYTES):
                break
        else:
            body = pickle.dumps((args, {}), PROTOCOL)
            return Serialized((body,), len(body)), ()
    depends_on: list[bytes] = []

    def stand_in(value: Any) -> Any:
        if isinstance(value, ObjectRef):
            depends_on.append(value.id)
            return Placeholder(len(depends_on) - 1)
        return value

    args = tuple(stand_in(value) for value in args)
    kwargs = {name: stand_in(value) for name, value in kwargs.items()}
    try:
        return dumps((args, kwargs), f"the arguments of {function}"), tuple(depends_on)
    except (TypeError, pickle.PicklingError) as error:
        refused = error
    # Once more, one by one and outside of the handler, so that what follows is not chained to it.
    for index, value in enumerate(args):
        name = repr(names[index]) if index < len(names) else str(index)
        dumps(value, f"argument {name} of {function}")
    for keyword, value in kwargs.items():
        dumps(value, f"argument {keyword!r} of {function}")
    raise refused


def unpack_arguments(
    body: Buffer | None, values: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse, with the refs' values put in their places."""
    if not body:
        return (), {}
    args, kwargs = loads(body)
    return fill(args, kwargs, values)


def fill(
    args: tuple[Any, ...], kwargs: dict[str, Any], values: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put values where the placeholders stand."""
    if not values:
        return args, kwargs

    def value_of(item: Any) -> Any:
        return values[item.position] if type(item) is Placeholder else item

    return (
        tuple(value_of(item) for item in args),
        {name: value_of(item) for name, item in kwargs.items()},
    )
