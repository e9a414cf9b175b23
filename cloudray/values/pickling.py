"""The pickler: cloudpickle's, which copies large members as seldom as it can."""

from __future__ import annotations

import pickle
from collections import ChainMap
from collections.abc import Callable, Sequence
from functools import cache
from types import CodeType
from typing import Any, ClassVar

import msgspec

from cloudray.values.libraries import PROTOCOL, REDUCERS, Writable, learn

__all__ = ["PROTOCOL", "Pickled", "pickle_any", "pickle_plain", "pickle_whole"]


class Pickled(msgspec.Struct, frozen=True):
    """What a pickler wrote, and the buffers that it left out."""

    #: to be written one after the other; large bytes are the very objects that were pickled
    stream: Sequence[bytes | bytearray | memoryview]
    buffers: Sequence[memoryview] = ()
    #: which of the buffers belong to values that may be written, and cannot be kept from it
    writable: frozenset[int] = frozenset()


class _Stream:
    """A file that keeps what is written as it is, where `BytesIO` would copy it."""

    __slots__ = ("parts", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.write = self.parts.append


def pickle_plain(value: object) -> Pickled:
    """Pickle a value whose members pickle itself knows."""
    stream = _Stream()
    pickle.Pickler(stream, PROTOCOL).dump(value)
    return Pickled(stream.parts)


def pickle_any(value: object) -> Pickled:
    """Pickle a value by cloudpickle, with its buffers left out. Raises what pickling raises."""
    learn()
    buffers: list[pickle.PickleBuffer] = []
    stream = _Stream()
    with Writable() as writable:
        pickler()(stream, PROTOCOL, buffer_callback=buffers.append).dump(value)
    if not buffers:
        return Pickled(stream.parts)
    marked = {id(buffer) for buffer in writable}
    numbers = frozenset(number for number, buffer in enumerate(buffers) if id(buffer) in marked)
    return Pickled(stream.parts, [buffer.raw() for buffer in buffers], numbers)


def pickle_whole(value: object) -> bytes:
    """Pickle a value with its buffers in it, as functions travel. Raises what pickling raises."""
    learn()
    stream = _Stream()
    pickler()(stream, PROTOCOL).dump(value)
    return b"".join(stream.parts)


@cache
def pickler() -> Any:
    """The class whose instances pickle here; `learn` what libraries need first."""
    import cloudpickle  # takes longer to load than the rest of this package

    reduce_code = cloudpickle.Pickler.dispatch_table[CodeType]

    def reduce_with_file(code: CodeType) -> tuple[Any, ...]:
        """Take code along with the name of its file, which cloudpickle leaves out since 3.1.3.

        A traceback without it shows neither the file nor the lines of the user's function.
        """
        make, args = reduce_code(code)
        if code.co_filename in args:
            return make, args
        return code_in_file, (code.co_filename, make, args)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: reduce_with_file}, REDUCERS, *cloudpickle.Pickler.dispatch_table.maps
        )

    return Pickler


def code_in_file(filename: str, make: Callable[..., CodeType], args: tuple[Any, ...]) -> CodeType:
    """The code that `make` makes, as standing in a file of this name."""
    return make(*args).replace(co_filename=filename)
