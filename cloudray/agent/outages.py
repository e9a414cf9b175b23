"""When the store cannot be reached: that is said once, with the reason, and when it is over.

An agent that has joined its cluster outlasts an outage of any length. Operations are repeated
until they are answered (`store.Reliable`), results wait in memory, and what others took over
meanwhile is found out when the store is back (`agent.core`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cloudray.durations import show_duration
from cloudray.store.base import Op, RefusedError, Store, StoreError, TransientStoreError
from cloudray.store.wrapper import Wrapper

#: Trouble that passes sooner is not worth a line.
PATIENCE_S = 2.0
#: A store that answers nothing for so long cannot be reached, though no request has failed yet.
SILENCE_S = 20.0


class Outages(Wrapper):
    """Watches the answers of a raw backend.

    `say` is called with a line when the store becomes unreachable and when it returns.
    """

    def __init__(
        self,
        store: Store,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store)
        self._raw = store.perform
        self._raw_async = store.perform_async
        self._say = say
        self._clock = clock
        #: the agent is in its cluster: an address that is refused now was right before, and may
        #: be again, so whatever asks waits for that
        self.joined = False
        #: since when nothing has succeeded; None while all is well
        self._since_s: float | None = None
        self._said = False
        self._waiting = 0
        #: since when somebody waits and nobody has been answered
        self._silent_s = 0.0

    def perform(self, op: Op) -> Any:
        """Perform one operation, and take notice of how that went."""
        with self._noticed():
            return self._raw(op)

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation on the event loop, and take notice of how that went."""
        with self._noticed():
            return await self._raw_async(op)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        began_s = self._begin()
        try:
            yield
        except TransientStoreError as error:
            self._failed(error, began_s)
            raise
        except RefusedError as error:
            if not self.joined:
                raise
            self._failed(error, began_s)
            raise TransientStoreError(str(error)) from error
        finally:
            self._waiting -= 1
        self._succeeded()

    def look(self) -> None:
        """Find out whether requests are swallowed; to be called every few seconds."""
        silent_s = self._clock() - self._silent_s
        if self._waiting and silent_s >= SILENCE_S and not self._said:
            self._since_s = self._silent_s
            self._unreachable(f"it has not answered for {show_duration(silent_s)}")

    def _begin(self) -> float:
        now_s = self._clock()
        if not self._waiting:
            self._silent_s = now_s
        self._waiting += 1
        return now_s

    def _failed(self, error: StoreError, began_s: float) -> None:
        if self._since_s is None:
            self._since_s = began_s
        if not self._said and self._clock() - self._since_s >= PATIENCE_S:
            self._unreachable(str(error))

    def _succeeded(self) -> None:
        self._silent_s = self._clock()
        if self._since_s is None:
            return
        away_s, self._since_s = self._clock() - self._since_s, None
        if self._said:
            self._said = False
            self._say(f"the store is back after {show_duration(away_s)}; the work goes on")

    def _unreachable(self, why: str) -> None:
        self._said = True
        kept = ", and keeps what it holds" if self.joined else ""
        self._say(
            f"the store cannot be reached: {why.rstrip('.')}. This agent goes on trying{kept}."
        )
