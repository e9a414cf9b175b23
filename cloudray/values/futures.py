"""Ending futures, on a thread of their own: their callbacks are the user's, and may wait."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from cloudray.values.outcomes import Outcome, settle


class Settler:
    """Ends futures one after the other, on a thread that starts with the first.

    The thread that learns of an outcome must not do it: a callback that calls `get` would wait
    for the very thread it runs on.
    """

    def __init__(self) -> None:
        self._settled: queue.SimpleQueue[tuple[Future[Any], Outcome] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def settle(self, future: Future[Any], outcome: Outcome) -> None:
        """End a future soon with a value or an error."""
        self._settled.put((future, outcome))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._settle_forever, name="cloudray-futures", daemon=True
                    )
                    self._thread.start()

    def close(self) -> None:
        """End the thread, after the futures that are on their way."""
        thread = self._thread
        if thread is not None:
            self._settled.put(None)
            if thread is not threading.current_thread():
                thread.join()

    def _settle_forever(self) -> None:
        while (settled := self._settled.get()) is not None:
            settle(*settled)
