"""An event loop in a thread of its own, for what a driver does with a store that is far away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class Background:
    """Runs coroutines while the driver's threads go on; the thread starts with the first one.

    Nothing that runs here may take the driver's lock: whoever holds that may wait for it.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        # The loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run a coroutine, which handles its own errors; after `close` it never runs: False."""
        with self._starting:
            if self._closed:
                work.close()
                return False
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._run, args=(loop,), name="cloudray-storage", daemon=True
                )
                thread.start()
                self._loop, self._thread = loop, thread
            self._loop.call_soon_threadsafe(self._begin, work)
            return True

    def close(self) -> None:
        """Cancel what runs, and end the thread. Idempotent."""
        with self._starting:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(self._end)
            thread.join()

    def forget(self) -> None:
        """In a forked child, where the thread does not run: let go of it."""
        self._closed = True
        self._loop = self._thread = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._cancel_all())

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().stop()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()
