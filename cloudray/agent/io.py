"""Running protocol procedures from the event loop, at once where the store allows it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cloudray.store.base import Store, StoreError, StoreFullError
from cloudray.store.envelope import RecordError
from cloudray.store.procedures import Procedure, drive, drive_async
from cloudray.store.signing import TamperedError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: That a store is full is met again and again; it is logged once in so many seconds.
_REMINDER_S = 10.0
#: So many sentences about records are remembered, to log each once.
_REMEMBERED = 1000


class Io:
    """The agent's way to the store.

    With an inline store (a directory in memory) a procedure runs within the call, so a task
    costs no trip around the event loop; with any other it runs as a task of the loop.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tasks: set[asyncio.Task[Any]] = set()
        self._complained_s = -_REMINDER_S
        #: what has been said of records that cannot be read
        self._told: set[str] = set()

    def run(
        self,
        procedure: Procedure[_T],
        then: Callable[[_T], None] | None = None,
        otherwise: Callable[[], None] | None = None,
    ) -> None:
        """Run a procedure, and `then` with its result.

        When the store refuses it for good (a full disk, say), or has a record that cannot be read
        or must not be, that is logged, and `otherwise` is called instead.
        """
        if not self.store.inline:
            self.spawn(self._run(procedure, then, otherwise))
            return
        try:
            result = drive(self.store, procedure)
        except (StoreError, RecordError) as error:
            self._refused(error, otherwise)
        else:
            if then is not None:
                then(result)

    async def do(self, procedure: Procedure[_T]) -> _T:
        """Run a procedure and wait for its result."""
        return await drive_async(self.store, procedure)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; an error in it is logged with its traceback."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Stop what is under way."""
        for task in self._tasks:
            task.cancel()

    async def _run(
        self,
        procedure: Procedure[_T],
        then: Callable[[_T], None] | None,
        otherwise: Callable[[], None] | None,
    ) -> None:
        try:
            result = await drive_async(self.store, procedure)
        except (StoreError, RecordError) as error:
            self._refused(error, otherwise)
        else:
            if then is not None:
                then(result)

    def complain(self, error: StoreError | RecordError) -> None:
        """Log what the store refused to do. The log may lie where there is no room either."""
        if isinstance(error, RecordError):
            self._complain_once(error)
            return
        if isinstance(error, StoreFullError):
            now_s = time.monotonic()
            if now_s - self._complained_s < _REMINDER_S:
                return
            self._complained_s = now_s
        _log.error("the store refused an operation: %s", error)

    def _complain_once(self, error: RecordError) -> None:
        """A record that cannot be read is met again and again; the store logs forged ones."""
        text = str(error)
        if isinstance(error, TamperedError) or text in self._told:
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told.add(text)
        _log.error("a stored record cannot be read: %s", text)

    def _refused(
        self, error: StoreError | RecordError, otherwise: Callable[[], None] | None
    ) -> None:
        self.complain(error)
        if otherwise is not None:
            otherwise()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work of the agent failed", exc_info=error)
