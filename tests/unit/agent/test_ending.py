from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from cloudray.agent.core import Agent
from cloudray.agent.ending import Ending


class Idle:
    """What `Ending` needs of an agent: it holds nothing until told otherwise."""

    def __init__(self) -> None:
        self.batches_taken = 0
        self.running_tasks = 0
        self.is_idle = True
        self.patience_s: list[float] = []
        self.drained = asyncio.Event()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.empty = asyncio.Event()
        self.empty.set()

    async def drain(self, patience_s: float) -> None:
        self.patience_s.append(patience_s)
        self.drained.set()
        await self.may_go.wait()

    async def nothing_held(self) -> None:
        await self.empty.wait()


class Scene:
    """An agent, its ending, and what that says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.agent = Idle()
        self.ending = Ending(30.0, self.said.append)
        self.ending.agent = cast("Agent", self.agent)

    @property
    def stopped(self) -> bool:
        return self.ending.stop.is_set()


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals) -> None:
    async def main() -> None:
        scene = Scene()
        scene.ending.obey_signals()
        os.kill(os.getpid(), number)
        await scene.ending.stop.wait()
        assert scene.agent.patience_s == [30.0]
        assert scene.said == [f"{number.name}: leaves"]

    play(main())


def test_a_second_signal_stops_at_once() -> None:
    async def main() -> None:
        scene = Scene()
        scene.agent.may_go.clear()
        scene.agent.running_tasks = 2
        scene.ending.obey_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await scene.agent.drained.wait()
        assert not scene.stopped
        os.kill(os.getpid(), signal.SIGINT)
        await scene.ending.stop.wait()
        draining, stopping = scene.said
        assert draining.startswith("SIGTERM: takes nothing new; 2 running tasks may take 30 s more")
        assert stopping == "SIGINT again: stops at once"

    play(main())


def test_before_it_has_joined_a_signal_stops_at_once() -> None:
    async def main() -> None:
        scene = Scene()
        scene.ending.agent = None
        scene.ending.obey_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await scene.ending.stop.wait()
        assert scene.agent.patience_s == []

    play(main())


def test_what_runs_beyond_the_drain_is_told() -> None:
    async def main() -> None:
        scene = Scene()
        scene.agent.running_tasks = 1
        scene.ending.obey_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await scene.ending.stop.wait()
        assert scene.said[1] == "1 still running: left to other agents"

    play(main())


def test_who_has_nothing_to_do_for_long_leaves() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.ending.when_idle(cast("Agent", scene.agent), 0.1)
        await scene.ending.stop.wait()
        assert scene.said == ["nothing to do for 0.1 s: leaves"]

    play(main())


def test_who_had_something_to_do_meanwhile_stays() -> None:
    async def main() -> None:
        scene = Scene()
        looks = 0

        class Busy(Idle):
            async def nothing_held(self) -> None:
                nonlocal looks
                looks += 1
                # Something comes and goes while it is waited, three times.
                if looks <= 3:
                    asyncio.get_running_loop().call_soon(self.take)
                await super().nothing_held()

            def take(self) -> None:
                self.batches_taken += 1

        await scene.ending.when_idle(cast("Agent", Busy()), 0.01)
        assert looks == 4

    play(main())


def test_who_still_holds_something_does_not_count_the_time() -> None:
    async def main() -> None:
        scene = Scene()
        scene.agent.empty.clear()
        waiting = asyncio.create_task(scene.ending.when_idle(cast("Agent", scene.agent), 0.0))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not scene.stopped
        scene.agent.empty.set()
        await waiting
        await scene.ending.stop.wait()

    play(main())


def test_the_end_of_the_driver_stops_at_once() -> None:
    async def main() -> None:
        scene = Scene()
        read_end, write_end = os.pipe()
        try:
            scene.ending.end_with(read_end)
            await asyncio.sleep(0)
            assert not scene.stopped
            os.close(write_end)
            await scene.ending.stop.wait()
            assert scene.said == []
        finally:
            os.close(read_end)

    play(main())
