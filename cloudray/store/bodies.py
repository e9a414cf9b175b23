"""What is put, and what is read: buffers, files and ranges."""

from __future__ import annotations

from cloudray.store.base import Adopt, Body, Buffer, Get, StoreError

#: Larger bodies travel to object storage in parts of this size, in parallel.
PART_BYTES = 8 << 20


def size_of(body: Body) -> int:
    """Count the bytes of a body.

    >>> size_of([b"header", bytearray(3)])
    9
    """
    if isinstance(body, bytes):
        return len(body)
    return sum(view.nbytes for view in views_of(body))


def views_of(body: Body) -> list[memoryview]:
    """Its buffers as flat views of bytes, without the empty ones."""
    buffers = [body] if isinstance(body, Buffer) else body
    views = (memoryview(buffer) for buffer in buffers)
    return [view.cast("B") for view in views if view.nbytes]


def join(body: Body) -> bytes:
    """Its bytes in one piece; no copy when it is one already."""
    return body if isinstance(body, bytes) else b"".join(views_of(body))


def beginning_of(body: Body, size_bytes: int) -> bytes:
    """Its first bytes, fewer when it is shorter."""
    if isinstance(body, bytes):
        return body[:size_bytes]
    found = bytearray()
    for view in views_of(body):
        found += view[: size_bytes - len(found)]
        if len(found) == size_bytes:
            break
    return bytes(found)


def range_of(op: Get) -> tuple[int, int | None]:
    """Where a read begins and ends (None: at the end of the object).

    Raises `ValueError` for a range that no object has.
    """
    start, end = op.start or 0, op.end
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"cannot read bytes {start} to {end} of {op.key}: that is not a range")
    return start, end


def check_file(op: Adopt) -> None:
    """Raise `StoreError` unless there is a file to adopt."""
    if not op.path.is_file():
        raise StoreError(f"cannot make {op.path} the object {op.key}: there is no such file")
