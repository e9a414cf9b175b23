"""Waiting for room, where others may still let go of some."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

from cloudray.store.base import StoreFullError

T = TypeVar("T")

#: What finds no room waits so long for it.
ROOM_S = 10.0
#: How often is looked whether there is some now.
ROOM_LOOK_S = 0.05


def write_patiently(
    write: Callable[[], T],
    *,
    free: Callable[[], None],
    wait: Callable[[float], object],
    may_shrink: Callable[[], bool],
) -> T:
    """Call `write` until there is room for what it writes, and return what it returns.

    Before each further try, `free()` gives back what it can; `wait(seconds)` passes the time in
    between. Raises `StoreFullError` when there is no room in time, or when there never will be:
    what is written is too large, or `may_shrink()` says that nobody has anything to let go of.
    """
    try:
        return write()
    except StoreFullError as full:
        if full.hopeless:
            raise
    gc.collect()  # what only cycles of garbage refer to
    deadline_s = time.monotonic() + ROOM_S
    while True:
        free()
        try:
            return write()
        except StoreFullError:
            if not may_shrink() or time.monotonic() > deadline_s:
                raise
        wait(ROOM_LOOK_S)
