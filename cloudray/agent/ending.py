"""When an agent's process is to end, and how patiently: signals, idleness, its driver's end.

The first SIGTERM or SIGINT drains: nothing new is claimed, what has not started is given back, and
what runs may finish. A second one, or the end of the driver of an embedded cluster, ends it at
once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from cloudray.agent.core import Agent
from cloudray.durations import show_duration


class Ending:
    """Sets `stop` when the agent is to end.

    Running tasks may take `drain_timeout_s` seconds more when it drains. `say` is told why it ends.
    """

    def __init__(self, drain_timeout_s: float, say: Callable[[str], None]) -> None:
        self.stop = asyncio.Event()
        #: None until it is in its cluster
        self.agent: Agent | None = None
        self._drain_timeout_s = drain_timeout_s
        self._say = say
        self._draining: asyncio.Task[None] | None = None

    def obey_signals(self) -> None:
        """Have SIGTERM and SIGINT end it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told, number.name)

    def end_with(self, lifeline: int) -> None:
        """The driver holds the other end of this pipe: when it is gone, however, so are we."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            # At its end a pipe stays readable, and the loop would turn and turn.
            loop.remove_reader(lifeline)
            self.stop.set()

        loop.add_reader(lifeline, gone)

    async def when_idle(self, agent: Agent, timeout_s: float) -> None:
        """Drain once the agent has held nothing for so many seconds."""
        while True:
            await agent.nothing_held()
            taken = agent.batches_taken
            await asyncio.sleep(timeout_s)
            if agent.batches_taken == taken and agent.is_idle:
                self._drain(agent, f"nothing to do for {show_duration(timeout_s)}")
                return

    def _told(self, name: str) -> None:
        agent = self.agent
        if agent is None:
            self.stop.set()
        elif self._draining is None:
            self._drain(agent, name)
        elif not self.stop.is_set():
            self._say(f"{name} again: stops at once")
            self.stop.set()

    def _drain(self, agent: Agent, why: str) -> None:
        if self._draining is None:
            running = agent.running_tasks
            if running:
                tasks = f"{running} running task{'s' if running > 1 else ''}"
                self._say(
                    f"{why}: takes nothing new; {tasks} may take "
                    f"{show_duration(self._drain_timeout_s)} more (another signal stops at once)"
                )
            else:
                self._say(f"{why}: leaves")
            self._draining = asyncio.get_running_loop().create_task(self._drain_and_stop(agent))

    async def _drain_and_stop(self, agent: Agent) -> None:
        try:
            await agent.drain(self._drain_timeout_s)
            if agent.running_tasks and not self.stop.is_set():
                self._say(f"{agent.running_tasks} still running: left to other agents")
        finally:
            self.stop.set()
