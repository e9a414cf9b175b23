"""Operations in words, for error messages."""

from __future__ import annotations

from cloudray.store.base import (
    Adopt,
    Create,
    Delete,
    Get,
    GetMany,
    Head,
    List,
    Op,
    Put,
)


def doing(op: Op) -> str:  # noqa: PLR0911 - one for each operation
    """Say what an operation does, to what.

    >>> from cloudray.store import Get
    >>> doing(Get("cluster"))
    'reading cluster'
    """
    match op:
        case Adopt():
            return f"adopting {op.path} as {op.key}"
        case Create():
            return f"creating {op.key}"
        case Delete():
            return f"deleting {_several(op.keys)}"
        case Get():
            return f"reading {op.key}"
        case GetMany():
            return f"reading {_several(op.keys)}"
        case Head():
            return f"looking at {op.key}"
        case List():
            return f"listing {op.prefix or 'everything'}"
        case Put():
            return f"writing {op.key}"


def _several(keys: tuple[str, ...]) -> str:
    others = len(keys) - 1
    return f"{keys[0]} and {others} more" if others > 0 else "".join(keys)
