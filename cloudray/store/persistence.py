"""The loop that repeats an operation which may be repeated: all but put-if-absent."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

from cloudray.store.backoff import Pause
from cloudray.store.base import Op, TransientStoreError


def persist(
    op: Op,
    *,
    give_up_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Op | Pause, Any, Any]:
    """Repeat an operation until it is answered.

    Yields the operation and `Pause`s. Raises the store's `TransientStoreError` once `give_up_s`
    seconds have passed (None: goes on as long as its driver), any other error at once.
    """
    deadline_s = None if give_up_s is None else clock() + give_up_s
    for attempt in count():
        try:
            return (yield op)
        except TransientStoreError:
            if deadline_s is not None and clock() >= deadline_s:
                raise
        yield Pause(attempt)
    raise AssertionError  # count() does not end
