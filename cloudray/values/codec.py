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

import os
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cloudray.context import Contained
from cloudray.exceptions import ObjectLostError
from cloudray.store.bodies import size_of
from cloudray.values.inspect import refusal
from cloudray.values.mapping import map_file
from cloudray.values.pickling import PROTOCOL, Pickled, pickle_any, pickle_plain

_ALIGNMENT = 64
_BUFFERED = 0x42
_LOCAL_MARK = b"F"
_STORED_MARK = b"S"
_HEAD = struct.Struct("<BxxxIQ")  # form, number of buffers, length of the pickle
_LENGTH = struct.Struct("<Q")
#: Marks the length of a buffer that is to come back as memory that may be written.
_WRITABLE = 1 << 63
#: Smaller parts of a body are copied into one.
LARGE_BYTES = 4 << 10
#: Pickle hands bytes from this size on to its file as they are.
WHOLE_BYTES = 64 << 10
_GONE = "its bytes were freed when no ref to it was left, or its cluster has ended"
#: Values that pickle takes as they are, wherever they come from.
PLAIN = frozenset((type(None), bool, int, float, str, bytes))

Buffer = bytes | bytearray | memoryview


class Serialized(msgspec.Struct, frozen=True):
    """A value as bytes: parts to be written one after the other."""

    parts: Sequence[Buffer]
    size_bytes: int
    #: ids of the refs inside the value
    contains: tuple[bytes, ...] = ()
    #: these refs: what they name stays until somebody has noted that this value names it
    refs: tuple[object, ...] = ()

    def to_bytes(self) -> bytes:
        """All parts in one."""
        return bytes(self.parts[0]) if len(self.parts) == 1 else b"".join(self.parts)


def dumps(value: object, what: str = "value") -> Serialized:
    """Serialize a value; `what` names it if it cannot be.

    Raises TypeError that names the member which cannot be pickled, and `PicklingError` for a
    value that is nested too deeply.
    """
    kind = type(value)
    if kind in PLAIN and (kind is not bytes or len(value) < WHOLE_BYTES):  # type: ignore[arg-type]
        body = pickle.dumps(value, PROTOCOL)
        return Serialized((body,), len(body))
    noted = Contained()
    with noted as contained:
        try:
            pickled = pickle_plain(value) if kind in PLAIN else pickle_any(value)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's classes may raise anything
            refused = refusal(value, what, error)
            raise refused from refused.__cause__
    if not pickled.buffers:
        parts = pickled.stream
        size_bytes = len(parts[0]) if len(parts) == 1 else size_of(parts)
        return Serialized(parts, size_bytes, tuple(contained), tuple(noted.refs))
    return _laid_out(pickled, tuple(contained), tuple(noted.refs))


def _laid_out(
    pickled: Pickled, contains: tuple[bytes, ...], refs: tuple[object, ...]
) -> Serialized:
    buffers = pickled.buffers
    lengths = b"".join(
        _LENGTH.pack(buffer.nbytes | (_WRITABLE if number in pickled.writable else 0))
        for number, buffer in enumerate(buffers)
    )
    pickle_bytes = size_of(pickled.stream)
    head = _HEAD.pack(_BUFFERED, len(buffers), pickle_bytes) + lengths
    size = len(head) + pickle_bytes
    parts: list[Buffer] = []
    small: list[Buffer] = [head]
    for part in pickled.stream:
        _append(parts, small, part)
    for buffer in buffers:
        padding = -size % _ALIGNMENT
        if padding:
            small.append(bytes(padding))
        _append(parts, small, buffer)
        size += padding + buffer.nbytes
    if small:
        parts.append(b"".join(small))
    return Serialized(parts, size, contains, refs)


def _append(parts: list[Buffer], small: list[Buffer], part: Buffer) -> None:
    """Add a part; small ones are joined, for a system call takes only so many."""
    if len(part) < LARGE_BYTES:
        small.append(part)
        return
    if small:
        parts.append(b"".join(small))
        small.clear()
    parts.append(part)


def loads(body: Buffer) -> Any:
    """The value of a form-0x80 or form-B body. Buffers in it are read-only views of `body`."""
    return _loads(body, lambda start, end: bytearray(body[start:end]))


def _loads(body: Buffer, writable: Callable[[int, int], Any]) -> Any:
    if body[0] != _BUFFERED:
        return pickle.loads(body)
    view = memoryview(body).toreadonly()
    _, count, pickle_bytes = _HEAD.unpack_from(view)
    position = _HEAD.size + count * _LENGTH.size
    pickled = view[position : position + pickle_bytes]
    lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    position += pickle_bytes
    buffers = []
    for marked in lengths:
        length = marked & ~_WRITABLE
        position += -position % _ALIGNMENT
        end = position + length
        buffers.append(writable(position, end) if marked & _WRITABLE else view[position:end])
        position = end
    return pickle.loads(pickled, buffers=buffers)


def loads_from(path: str, offset: int) -> Any:
    """The value in a local file behind `offset` bytes of header, mapped rather than copied.

    Buffers of values that cannot be kept from writing to them are mapped copy-on-write.
    Raises `ObjectLostError` when there is no such file any more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ObjectLostError(reason=_GONE) from None
    try:
        private: list[memoryview] = []

        def writable(start: int, end: int) -> memoryview:
            if not private:
                private.append(map_file(descriptor, private=True))
            return private[0][offset + start : offset + end]

        return _loads(map_file(descriptor)[offset:], writable)
    finally:
        os.close(descriptor)


def stored(key: str, size_bytes: int) -> bytes:
    """Form S: the value is the object at this key."""
    return _STORED_MARK + _LENGTH.pack(size_bytes) + key.encode()


def stored_key(body: Buffer) -> str | None:
    """The key in a form-S body, or None if it is of another form."""
    return bytes(body[9:]).decode() if body[:1] == _STORED_MARK else None


def stored_size(body: Buffer) -> int | None:
    """The size that a form-S body says, or None if it is of another form."""
    return int(_LENGTH.unpack_from(body, 1)[0]) if body[:1] == _STORED_MARK else None


def local(path: str) -> bytes:
    """Form F: the value is the record in this file."""
    return _LOCAL_MARK + path.encode()


def local_path(body: Buffer) -> str | None:
    """The path in a form-F body, or None if it is of another form."""
    return bytes(body[1:]).decode() if body[:1] == _LOCAL_MARK else None
