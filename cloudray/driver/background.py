"""An event loop in a thread of its own, for what a driver does with a store that is far away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from cloudray.store.loops import LoopThread


class Background:
    """Runs coroutines while the driver's threads go on; the thread starts with the first one.

    Nothing that runs here may take the driver's lock: whoever holds that may wait for it.
    """

    def __init__(self) -> None:
        self._thread: LoopThread | None = None
        # Taken again by a signal handler that submits.
        self._starting = threading.RLock()
        self._closed = False
        # The loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run a coroutine, which handles its own errors; after `close` it never runs: False."""
        with self._starting:
            if self._closed:
                work.close()
                return False
            thread = self._thread
            if thread is None:
                thread = self._start()
            thread.call_soon(lambda: self._begin(work))
            return True

    def close(self) -> None:
        """Cancel what runs, and end the thread. Idempotent."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def forget(self) -> None:
        """In a forked child, where the thread does not run: let go of it."""
        self._closed = True
        self._thread = None

    def _start(self) -> LoopThread:
        started = LoopThread("cloudray-storage")
        self._thread = self._thread or started
        if self._thread is not started:  # a signal handler came first
            started.close()
        return self._thread

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Errand:
    """Work of a background of which one piece is under way at a time, at most."""

    def __init__(self, background: Background) -> None:
        self._background = background
        #: a piece is under way
        self.busy = False

    def begin(
        self, work: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None] | None = None
    ) -> None:
        """Begin a piece, unless one is under way; `over` is called on the loop at its end."""
        if self.busy:
            return
        try:
            self.busy = True
            if not self._background.spawn(self._run(work, over)):
                self.busy = False
        except BaseException:  # a Ctrl-C: the next one tries again
            self.busy = False
            raise

    async def _run(
        self, work: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None] | None
    ) -> None:
        try:
            await work()
        finally:
            self.busy = False
            if over is not None:
                over()
