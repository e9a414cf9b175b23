"""Whether an operation is one that a bucket can be asked for."""

from __future__ import annotations

from cloudray.store.base import Adopt, Delete, Get, GetMany, List, Op
from cloudray.store.bodies import check_file, range_of
from cloudray.store.keys import check_key, check_prefix


def check_op(op: Op) -> None:
    """Raise `ValueError` for what is no key or range, `StoreError` for a file that is not there."""
    match op:
        case List():
            check_prefix(op.prefix)
            check_prefix(op.after)
        case GetMany() | Delete():
            for key in op.keys:
                check_key(key)
        case Adopt():
            check_key(op.key)
            check_file(op)
        case Get():
            check_key(op.key)
            range_of(op)
        case _:
            check_key(op.key)


def is_empty(op: Get) -> bool:
    """Whether a read asks for no byte at all, which HTTP cannot say."""
    start, end = range_of(op)
    return start == end
