"""Ending futures, on a thread of their own: their callbacks are the user's, and may wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias

from cloudray.values.outcomes import Outcome, settle

#: Who leaves waits so long for callbacks that are running.
_PATIENCE_S = 5.0
#: An outcome, or what finds out about it, which may take long or fail.
Ending: TypeAlias = Outcome | Callable[[], Outcome]


class Settler:
    """Ends futures one after the other, on a thread that starts with the first.

    The thread that learns of an outcome must not do it: a callback that calls `get` would wait
    for the very thread it runs on.
    """

    def __init__(self) -> None:
        self._settled: queue.SimpleQueue[tuple[Future[Any], Ending, object] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        # Taken again by a signal handler that learns of outcomes.
        self._starting = threading.RLock()

    def settle(self, future: Future[Any], outcome: Ending, ref: object = None) -> None:
        """End a future soon with a value or an error; `ref` lives until that has been read."""
        self._settled.put((future, outcome, ref))
        if self._thread is None:
            with self._starting:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._settle_forever, name="cloudray-futures", daemon=True)
        self._thread = self._thread or thread
        if self._thread is thread:
            thread.start()

    def close(self) -> None:
        """End the thread, after the futures that are on their way."""
        thread = self._thread
        if thread is not None:
            self._settled.put(None)
            if thread is not threading.current_thread():
                # A callback is the user's, and may take as long as it likes.
                thread.join(_PATIENCE_S)

    def _settle_forever(self) -> None:
        while (settled := self._settled.get()) is not None:
            future, outcome, _ = settled
            end(future, outcome)
            # Nothing of it is kept while the next one is waited for.
            del settled, future, outcome, _


def end(future: Future[Any], outcome: Ending) -> None:
    """End a future with a value or an error, also with one of finding out about it."""
    if not isinstance(outcome, Outcome):
        try:
            outcome = outcome()
        except Exception as error:  # noqa: BLE001 - it is the future's to carry
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
    settle(future, outcome)
