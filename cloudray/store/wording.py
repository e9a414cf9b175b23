"""Operations in words, for error messages."""

from __future__ import annotations

from collections.abc import Collection

from cloudray.store.base import (
    Adopt,
    Create,
    Delete,
    Get,
    GetIfChanged,
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
        case Get() | GetIfChanged():
            return f"reading {op.key}"
        case GetMany():
            return f"reading {_several(op.keys)}"
        case Head():
            return f"looking at {op.key}"
        case List():
            return f"listing {op.prefix or 'everything'}"
        case Put():
            return f"writing {op.key}"


def public(url: str, known: Collection[str] = ()) -> str:
    """A URL without what may be secret in it: a user, and values of parameters but the known ones.

    >>> public("s3://key:secret@bucket/prefix?region=eu-west-1&token=abc", {"region"})
    's3://...@bucket/prefix?region=eu-west-1&token=...'
    """
    before, mark, query = url.partition("?")
    scheme, _, rest = before.partition("://")
    place, slash, path = rest.partition("/")
    if "@" in place:
        before = f"{scheme}://...@{place.rpartition('@')[2]}{slash}{path}"
    shown = [
        pair if (name := pair.partition("=")[0]) in known and "@" not in pair else f"{name}=..."
        for pair in query.split("&")
        if pair
    ]
    return f"{before}{mark}{'&'.join(shown)}"


def _several(keys: tuple[str, ...]) -> str:
    others = len(keys) - 1
    return f"{keys[0]} and {others} more" if others > 0 else "".join(keys)
