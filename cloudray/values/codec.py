"""Values as bytes.

The first byte says which of four forms it is:

    0x80  a pickle, as pickle itself begins
    'B'   a pickle with out-of-band buffers, each aligned to 64 bytes for mapping
    'S'   a value stored elsewhere: size (8 bytes), then its key
    'F'   a value in a local file: the path

A NumPy array that was written in form B and is read from a mapped file is a read-only view of
that file, not a copy.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from cloudray.context import Contained
from cloudray.values.inspect import why_not_picklable

PROTOCOL = 5
_ALIGNMENT = 64
_BUFFERED = 0x42
_LOCAL_MARK = b"F"
_STORED_MARK = b"S"
_HEAD = struct.Struct("<BxxxIQ")  # form, number of buffers, length of the pickle
_LENGTH = struct.Struct("<Q")
#: Values that pickle takes as they are, wherever they come from.
PLAIN = frozenset((type(None), bool, int, float, str, bytes))

Buffer = bytes | bytearray | memoryview


class Serialized(msgspec.Struct, frozen=True):
    """A value as bytes: parts to be written one after the other."""

    parts: Sequence[Buffer]
    size_bytes: int
    #: ids of the refs inside the value
    contains: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """All parts in one."""
        return bytes(self.parts[0]) if len(self.parts) == 1 else b"".join(self.parts)


def dumps(value: object, what: str = "value") -> Serialized:
    """Serialize a value; `what` names it if it cannot be.

    Raises TypeError that names the member which cannot be pickled, and `PicklingError` for a
    value that is nested too deeply.
    """
    if type(value) in PLAIN:
        body = pickle.dumps(value, PROTOCOL)
        return Serialized((body,), len(body))
    import cloudpickle  # takes longer to load than the rest of this package

    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    with Contained() as contained:
        try:
            cloudpickle.Pickler(stream, PROTOCOL, buffer_callback=buffers.append).dump(value)
        except Exception as error:
            if isinstance(error.__cause__, RecursionError):
                raise
            raise TypeError(why_not_picklable(value, what, error)) from error
    pickled = stream.getbuffer()
    if not buffers:
        return Serialized((pickled,), len(pickled), tuple(contained))
    return _laid_out(pickled, [buffer.raw() for buffer in buffers], tuple(contained))


def _laid_out(
    pickled: memoryview, buffers: Sequence[memoryview], contains: tuple[bytes, ...]
) -> Serialized:
    lengths = b"".join(_LENGTH.pack(buffer.nbytes) for buffer in buffers)
    head = _HEAD.pack(_BUFFERED, len(buffers), len(pickled)) + lengths
    parts: list[Buffer] = [head, pickled]
    size = len(head) + len(pickled)
    for buffer in buffers:
        padding = -size % _ALIGNMENT
        if padding:
            parts.append(bytes(padding))
        parts.append(buffer)
        size += padding + buffer.nbytes
    return Serialized(parts, size, contains)


def loads(body: Buffer) -> Any:
    """The value of a form-0x80 or form-B body. Buffers in it are read-only views of `body`."""
    if body[0] != _BUFFERED:
        return pickle.loads(body)
    view = memoryview(body).toreadonly()
    _, count, pickle_bytes = _HEAD.unpack_from(view)
    position = _HEAD.size + count * _LENGTH.size
    pickled = view[position : position + pickle_bytes]
    lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    position += pickle_bytes
    buffers = []
    for length in lengths:
        position += -position % _ALIGNMENT
        buffers.append(view[position : position + length])
        position += length
    return pickle.loads(pickled, buffers=buffers)


def loads_from(path: str, offset: int) -> Any:
    """The value in a local file behind `offset` bytes of header, mapped rather than copied."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    return loads(memoryview(mapped)[offset:])


def stored(key: str, size_bytes: int) -> bytes:
    """Form S: the value is the object at this key."""
    return _STORED_MARK + _LENGTH.pack(size_bytes) + key.encode()


def stored_key(body: Buffer) -> str | None:
    """The key in a form-S body, or None if it is of another form."""
    return bytes(body[9:]).decode() if body[:1] == _STORED_MARK else None


def local(path: str) -> bytes:
    """Form F: the value is the record in this file."""
    return _LOCAL_MARK + path.encode()


def local_path(body: Buffer) -> str | None:
    """The path in a form-F body, or None if it is of another form."""
    return bytes(body[1:]).decode() if body[:1] == _LOCAL_MARK else None
