"""Telling, once, of a store that cannot be used for a while, and when it can be again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cloudray.store.base import TransientStoreError

#: Troubles that pass sooner, in seconds, are not worth a line.
WORTH_A_LINE_S = 10.0
#: What fails after so long a silence, in seconds, is another trouble.
_APART_S = 300.0


class Watch:
    """Hears of every attempt on a store that failed, and of success after it; says little.

    >>> watch = Watch("s3://bucket", print, clock=iter([0.0, 1.0, 12.0, 75.0]).__next__)
    >>> for _ in range(3): watch.failed(TransientStoreError("connection refused"))
    s3://bucket has not answered for 12 s; trying on (connection refused)
    >>> watch.answered()
    s3://bucket answers again, after 1 min 15 s
    """

    def __init__(
        self,
        url: str,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tell `say` of the store at `url`; `clock` is monotonic, in seconds."""
        self._url = url
        self._say = say
        self._clock = clock
        # Taken again by a signal handler that asks the store.
        self._lock = threading.RLock()
        #: when the present trouble began, and when it was last met; None: all is well
        self._began_s: float | None = None
        self._met_s = 0.0
        #: the kinds of trouble that have been told since
        self._told: set[type] = set()

    def failed(self, error: TransientStoreError) -> None:
        """Hear that an attempt failed, which will be repeated."""
        with self._lock:
            now_s = self._clock()
            if self._began_s is None or now_s - self._met_s > _APART_S:
                self._began_s = now_s
                self._told.clear()
            self._met_s = now_s
            lasted_s = now_s - self._began_s
            if type(error) in self._told or (
                lasted_s < WORTH_A_LINE_S and not error.needs_somebody
            ):
                return
            self._told.add(type(error))
        from cloudray.durations import show_duration  # all is well mostly

        if error.needs_somebody:
            self._say(f"{error} Waiting until it is done.")
        else:
            self._say(
                f"{self._url} has not answered for {show_duration(lasted_s)}; trying on ({error})"
            )

    def answered(self) -> None:
        """Hear that an attempt was answered."""
        if self._began_s is None:
            return
        with self._lock:
            if self._began_s is None:
                return
            lasted_s = self._clock() - self._began_s
            told = bool(self._told)
            self._began_s = None
            self._told.clear()
        if told:
            from cloudray.durations import show_duration

            self._say(f"{self._url} answers again, after {show_duration(lasted_s)}")
