"""Types whose values come back cheaper, or at all, other than by their own reduction."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from cloudray import randomness

PROTOCOL = 5
#: An Arrow value is taken apart from its table if that has so many times its bytes, and more.
_SLICE_SHARE, _SLICE_BYTES = 1.25, 4096


class _Marked(threading.local):
    """The lists that are open on this thread, the innermost last."""

    def __init__(self) -> None:
        self.open: list[list[pickle.PickleBuffer]] = []

    def add(self, buffer: pickle.PickleBuffer) -> None:
        if self.open:
            self.open[-1].append(buffer)


_marked = _Marked()


class Writable:
    """Collects the buffers of a value that are to come back as memory that may be written.

    A tensor, for one, cannot be kept from writing to its memory.
    """

    __slots__ = ()

    def __enter__(self) -> list[pickle.PickleBuffer]:
        _marked.open.append([])
        return _marked.open[-1]

    def __exit__(self, *_: object) -> None:
        _marked.open.pop()


def _reduce_cached(function: Any) -> Any:
    """Take a function with an `lru_cache` by value where cloudpickle would take it so without."""
    found: Any = sys.modules.get(function.__module__)
    if function.__module__ != "__main__":
        for name in function.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is function:
            return function.__reduce__()
    # What it wraps comes as its state, because a recursive function contains itself.
    state = (function.__wrapped__, vars(function))
    return cached, tuple(function.cache_parameters().values()), state, None, None, set_cached


def cached(maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001 - as lru_cache has it
    """A function with an empty `lru_cache`; `set_cached` says which function."""
    target: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        return target[0](*args, **kwargs)

    function: Any = lru_cache(maxsize, typed)(call)
    function.target = target
    return function


def set_cached(function: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Make a function that came from `cached` call what it is to call."""
    wrapped, attributes = state
    function.target.append(wrapped)
    vars(function).clear()
    vars(function).update(attributes)


REDUCERS: dict[type, Callable[[Any], Any]] = {type(lru_cache(repr)): _reduce_cached}
_KNOWN_LIBRARIES: set[str] = set()


def learn() -> None:
    """Take in the types of libraries that have been loaded; nothing is loaded for their sake."""
    for library, teach in _LIBRARIES.items():
        if library not in _KNOWN_LIBRARIES and library in sys.modules:
            try:
                teach()
            except AttributeError:
                continue  # it is being loaded right now
            except ImportError:
                pass  # what it needs for this is missing: pickle knows what to do
            _KNOWN_LIBRARIES.add(library)


def _learn_numpy() -> None:
    import numpy as np

    REDUCERS[np.ndarray] = _reduce_array


def _reduce_array(array: Any) -> Any:
    """Take an array out of band whatever its strides: NumPy copies those with gaps twice."""
    if not (array.flags.forc or array.dtype.hasobject or _is_dense(array)):
        array = array.copy(order="K")
    if array.dtype.kind in "mM":
        # Dates have no format that a buffer could have, so NumPy would copy them.
        return dates_of, (array.view("i8"), array.dtype)
    return array.__reduce_ex__(PROTOCOL)


def dates_of(numbers: Any, dtype: Any) -> Any:
    """The dates or durations that these numbers stand for, in the same memory."""
    return numbers.view(dtype)


def _is_dense(array: Any) -> bool:
    """Whether an array fills its memory, its axes in whatever order: NumPy leaves these out."""
    steps = zip(array.shape, array.strides, strict=True)
    spread = sum((count - 1) * stride for count, stride in steps)
    return min(array.strides) > 0 and bool(spread + array.itemsize == array.nbytes)


def _learn_torch() -> None:
    import numpy as np  # noqa: F401 - a buffer comes from a tensor by way of NumPy only

    torch = import_module("torch")
    REDUCERS[torch.UntypedStorage] = _reduce_storage
    REDUCERS[torch.storage.TypedStorage] = _reduce_typed_storage


def _reduce_storage(storage: Any) -> Any:
    """Take a tensor's memory out of band; torch itself would copy it into a file in memory."""
    torch = import_module("torch")
    if storage.device.type != "cpu":
        return storage.__reduce_ex__(PROTOCOL)
    size_bytes = storage.nbytes()
    if not size_bytes:
        return torch.UntypedStorage, (0,)
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    buffer = pickle.PickleBuffer(flat.numpy())
    _marked.add(buffer)
    return storage_of, (buffer,)


def _reduce_typed_storage(storage: Any) -> Any:
    untyped = storage._untyped_storage  # noqa: SLF001 - without a warning there is no other way
    if untyped.device.type != "cpu":
        return storage.__reduce_ex__(PROTOCOL)
    return typed_storage_of, (untyped, storage.dtype)


def storage_of(buffer: Any) -> Any:
    """A torch storage that is this memory; a tensor cannot be kept from writing to it."""
    torch = import_module("torch")
    if memoryview(buffer).readonly:
        buffer = bytearray(buffer)
    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


def typed_storage_of(untyped: Any, dtype: Any) -> Any:
    """A torch storage of elements over one of bytes, as tensors are pickled with."""
    torch = import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _learn_arrow() -> None:
    arrow = import_module("pyarrow")
    for kind in (arrow.Table, arrow.RecordBatch, arrow.ChunkedArray, *_kinds_of(arrow.Array)):
        REDUCERS[kind] = _reduce_arrow


def _kinds_of(kind: type) -> set[type]:
    kinds = {kind}
    for inner in list[type](kind.__subclasses__()):
        kinds |= _kinds_of(inner)
    return kinds


def _reduce_arrow(value: Any) -> Any:
    """Take only what a slice of a table shows: Arrow itself would store the whole table."""
    if value.get_total_buffer_size() <= _SLICE_SHARE * value.nbytes + _SLICE_BYTES:
        return value.__reduce_ex__(PROTOCOL)
    arrow = import_module("pyarrow")
    is_table, is_batch = isinstance(value, arrow.Table), isinstance(value, arrow.RecordBatch)
    if is_table or is_batch:
        table = value
    elif isinstance(value, arrow.ChunkedArray):
        table = arrow.table({"": value})
    else:
        table = arrow.record_batch({"": value})
    sink = arrow.BufferOutputStream()
    try:
        with arrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write(table)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        return value.__reduce_ex__(PROTOCOL)
    return arrow_of, (type(value), pickle.PickleBuffer(sink.getvalue()))


def arrow_of(kind: Any, buffer: Any) -> Any:
    """An Arrow value from a stream of batches, in the same memory."""
    arrow = import_module("pyarrow")
    with arrow.ipc.open_stream(arrow.py_buffer(buffer)) as stream:
        if kind is arrow.Table:
            return stream.read_all()
        if kind is arrow.ChunkedArray:
            return stream.read_all().column(0)
        batch = stream.read_next_batch()
    return batch if kind is arrow.RecordBatch else batch.column(0)


def _learn_random() -> None:
    import random

    REDUCERS[random.Random] = _reduce_generator


def _learn_numpy_random() -> None:
    from numpy.random import RandomState

    REDUCERS[RandomState] = _reduce_generator


def _reduce_generator(generator: Any) -> Any:
    """Leave the generators behind that belong to a process: `from random import random` has one.

    With a copy of this process's, all that receive it would draw the same numbers.
    """
    for name in (randomness.PYTHON, randomness.NUMPY):
        if name[0] in sys.modules and generator is randomness.shared(*name):
            return randomness.shared, name
    return generator.__reduce_ex__(PROTOCOL)


_LIBRARIES = {
    "numpy": _learn_numpy,
    "torch": _learn_torch,
    "pyarrow": _learn_arrow,
    "random": _learn_random,
    "numpy.random.mtrand": _learn_numpy_random,
}
