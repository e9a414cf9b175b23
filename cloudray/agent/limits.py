"""Tasks with a `timeout_s`: attempts that run longer are interrupted, and killed if need be.

The protocol has no part in this. A task that was stopped in time fails like one that raised, by
a final word of the agent that holds it, or is tried again like one that raised; should its
result have come first, that stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloudray.agent.workers import Assigned, Worker
from cloudray.protocol import messages as m

#: How long an attempt that was interrupted may take to clean up and end.
GRACE_S = 3.0
#: The shortest wait for a limit that is almost reached.
_SHORTEST_S = 0.001


class Limits:
    """Watches calls whose time is limited, from when their executors begin with them.

    `clock` is the one by which executors say when that was.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def watch(self, worker: Worker, ticket: int, assigned: Assigned) -> None:
        """An executor is about to get a call, though maybe behind others."""
        self._later(assigned.known.shape.timeout_s, worker, ticket, assigned)

    def _later(self, delay_s: float, worker: Worker, ticket: int, assigned: Assigned) -> None:
        loop = asyncio.get_running_loop()
        assigned.timer = loop.call_later(delay_s, self._look, worker, ticket, assigned)

    def _look(self, worker: Worker, ticket: int, assigned: Assigned) -> None:
        if ticket not in worker.tickets:
            return
        left_s = limit_s = assigned.known.shape.timeout_s
        if worker.running_ticket() == ticket:
            left_s = worker.begun_s() + limit_s - self._clock()
        if left_s > 0:
            self._later(max(left_s, _SHORTEST_S), worker, ticket, assigned)
            return
        assigned.expired = True
        worker.send(m.Interrupt(ticket, timed_out=True))
        loop = asyncio.get_running_loop()
        assigned.timer = loop.call_later(GRACE_S, self._kill, worker, ticket)

    def _kill(self, worker: Worker, ticket: int) -> None:
        if ticket in worker.tickets:
            worker.kill()
