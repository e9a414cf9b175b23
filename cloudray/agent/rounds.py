"""What an agent does again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any, NoReturn

from cloudray.agent.io import Io
from cloudray.store.base import StoreError

_log = logging.getLogger(__name__)


class Rounds:
    """Repeats work at its own pace, jittered so that agents do not go in step."""

    def __init__(self, io: Io, clock: Callable[[], float], rng: Random) -> None:
        self._io = io
        self._clock = clock
        self._rng = rng

    async def every(self, period_s: float, work: Callable[[], Any]) -> NoReturn:
        """Run `work` again and again; an error in it is logged and costs one turn.

        `period_s` is from one beginning to the next: what has to be done so often must not come
        more rarely where the store is slow.
        """
        while True:
            began_s = self._clock()
            try:
                result = work()
                if result is not None:
                    await result
            except asyncio.CancelledError:
                raise
            except StoreError as error:
                self._io.complain(error)
            except Exception:  # noqa: BLE001 - logged, and the agent's other work goes on
                _log.exception("an agent's regular work failed; it goes on")
            due_s = began_s + period_s * (0.9 + 0.2 * self._rng.random())
            await asyncio.sleep(max(0.0, due_s - self._clock()))
