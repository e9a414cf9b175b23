"""Ending futures, on a thread of their own: their callbacks are the user's, and may wait."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from cloudray.values.outcomes import Outcome, settle

#: Who leaves waits so long for callbacks that are running.
_PATIENCE_S = 5.0


class Settler:
    """Ends futures one after the other, on a thread that starts with the first.

    The thread that learns of an outcome must not do it: a callback that calls `get` would wait
    for the very thread it runs on.
    """

    def __init__(self) -> None:
        self._settled: queue.SimpleQueue[tuple[Future[Any], Outcome, object] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def settle(self, future: Future[Any], outcome: Outcome, ref: object = None) -> None:
        """End a future soon with a value or an error; `ref` lives until that has been read."""
        self._settled.put((future, outcome, ref))
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
                # A callback is the user's, and may take as long as it likes.
                thread.join(_PATIENCE_S)

    def _settle_forever(self) -> None:
        while (settled := self._settled.get()) is not None:
            future, outcome, _ = settled
            settle(future, outcome)
            # Nothing of it is kept while the next one is waited for.
            del settled, future, outcome, _
