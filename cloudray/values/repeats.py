"""The same large argument, passed by value again and again: each call stores a copy of it."""

from __future__ import annotations

import weakref
from typing import Any

#: A function's caller is told when the copies of one argument come to this much, ...
WARN_BYTES = 100 << 20
#: ... and it was passed so often.
WARN_TIMES = 3


class Repeats:
    """Notices it for the calls of one function, and says so once."""

    __slots__ = ("_last", "_times", "_told")

    def __init__(self) -> None:
        #: the largest argument of the last call that had a large one
        self._last: weakref.ref[Any] | None = None
        self._times = 0
        self._told = False

    def note(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], size_bytes: int
    ) -> tuple[int, int] | None:
        """A call with large arguments, of so many bytes in all.

        Returns how many bytes one argument has and how often it was passed, if that is to be
        told. An object that is merely equal, or was made anew, is another argument.
        """
        if self._told:
            return None
        alone = size_bytes if len(args) + len(kwargs) == 1 else 0
        values = [*args, *kwargs.values()]
        sizes = [_size_of(value, alone) for value in values]
        largest_bytes = max(sizes)
        value = values[sizes.index(largest_bytes)]
        if self._last is not None and self._last() is value:
            self._times += 1
        else:
            try:
                self._last = weakref.ref(value)
            except TypeError:
                self._last = None  # its class allows no weak references, as bytes does not
            self._times = 1
        if self._times < WARN_TIMES or self._times * largest_bytes < WARN_BYTES:
            return None
        self._told = True
        self._last = None
        return largest_bytes, self._times


def _size_of(value: Any, otherwise_bytes: int) -> int:
    size_bytes = getattr(value, "nbytes", None)
    return size_bytes if isinstance(size_bytes, int) else otherwise_bytes
