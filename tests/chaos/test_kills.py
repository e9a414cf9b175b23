"""`kill -9`, on executors and on one of two agents, while thousands of tasks run."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

import cloudray as ray
from cloudray import context
from tests.chaos.cluster import Agents
from tests.chaos.words import final_words

ROUNDS = 20
TASKS = 2000
KILLS = 6
CPUS = 12
#: How often not one executor is killed, but what they are all forked from.
ZYGOTE_SHARE = 0.05


@ray.remote(max_retries=50)
def work(number: int, pause_s: float) -> int:
    """Sleep, then say something that only this task would say."""
    time.sleep(pause_s)
    return number * number + 1


@pytest.fixture
def agents() -> Iterator[Agents]:
    cluster = Agents()
    try:
        yield cluster
    finally:
        cluster.close()


class Killer(threading.Thread):
    """Kills executors, and once an agent, at random moments while tasks run."""

    def __init__(self, agents: Agents, rng: random.Random) -> None:
        super().__init__(name="killer")
        self._agents = agents
        self._rng = rng
        self.finished = threading.Event()
        #: executors killed while their agent lived and work was left
        self.executors = 0
        self.agents = 0

    def run(self) -> None:
        """Strike until the work is done or enough have died."""
        victim = self._rng.randrange(2)
        strike = self._rng.randrange(KILLS)
        while not self.finished.wait(self._rng.uniform(0.05, 0.35)) and self.kills < KILLS + 1:
            if self.kills == strike and not self.agents:
                agent = self._agents.processes[victim]
                self._agents.executors(agent)
                agent.send_signal(signal.SIGKILL)
                agent.wait()
                self.agents += 1
                self._agents.start(CPUS)
            else:
                self._kill_an_executor()

    @property
    def kills(self) -> int:
        """How many have died so far."""
        return self.executors + self.agents

    def _kill_an_executor(self) -> None:
        living = [agent for agent in self._agents.processes if agent.poll() is None]
        victims = [one for agent in living for one in self._agents.executors(agent)]
        if self._rng.random() < ZYGOTE_SHARE:
            # With it go all executors of its agent, which must start others without it.
            victims = self._agents.zygotes()
        if victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._rng.choice(victims).send_signal(signal.SIGKILL)
                self.executors += 1


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_executors_and_agents_lose_no_task(agents: Agents, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2):
        agents.start(CPUS)
    killer = Killer(agents, rng)
    ray.init(agents.address)
    try:
        killer.start()
        pauses_s = [0.001 * 300 ** rng.random() for _ in range(TASKS)]
        refs = [work.remote(number, pause_s) for number, pause_s in enumerate(pauses_s)]
        results = ray.get(refs, timeout=120)
        killer.finished.set()
        killer.join()
        assert results == [number * number + 1 for number in range(TASKS)]
        assert ray.get(refs) == results
        assert killer.kills >= 5, "the round was over before enough had died"
        words = final_words(context.client().store)  # type: ignore[attr-defined]
        assert set(words.values()) == {1}
        assert len(words) >= TASKS
    except BaseException:
        sys.stderr.write(agents.logs())
        raise
    finally:
        killer.finished.set()
        if killer.is_alive():
            killer.join()
        ray.shutdown()
    agents.stop()
    assert agents.leftovers() == []


def test_an_agent_that_drains_loses_nothing_and_starts_nothing_new(agents: Agents) -> None:
    first = agents.start(2)
    ray.init(agents.address)
    try:
        refs = [work.remote(number, 0.05) for number in range(60)]
        ray.wait(refs, num_returns=3)
        agents.start(2)
        first.send_signal(signal.SIGTERM)
        assert ray.get(refs, timeout=120) == [number * number + 1 for number in range(60)]
        assert first.wait(60) == 0
    finally:
        ray.shutdown()
    agents.stop()
    assert agents.leftovers() == []


def test_an_agent_paused_past_its_lease_publishes_no_second_result(agents: Agents) -> None:
    first = agents.start(2)
    ray.init(agents.address)
    try:
        refs = [work.remote(number, 0.3) for number in range(8)]
        ray.wait(refs, num_returns=1)
        first.send_signal(signal.SIGSTOP)
        agents.start(2)
        results = ray.get(refs, timeout=120)
        first.send_signal(signal.SIGCONT)
        assert results == [number * number + 1 for number in range(8)]
        assert ray.get([work.remote(number, 0.01) for number in range(20)], timeout=120)
        assert ray.get(refs) == results
        words = final_words(context.client().store)  # type: ignore[attr-defined]
        assert set(words.values()) == {1}
    finally:
        if first.poll() is None:
            first.send_signal(signal.SIGCONT)
        ray.shutdown()
    agents.stop()
    assert agents.leftovers() == []


def test_work_that_waits_on_a_busy_agent_goes_to_an_idle_one(agents: Agents) -> None:
    agents.start(1)
    ray.init(agents.address)
    try:

        @ray.remote
        def where(pause_s: float) -> str:
            time.sleep(pause_s)
            return ray.get_runtime_context().get_node_id()

        # One batch, claimed whole by the only agent there is.
        refs = [where.remote(0.7) for _ in range(12)]
        ray.wait(refs, num_returns=1)
        agents.start(1)
        nodes = ray.get(refs, timeout=120)
        assert len(set(nodes)) == 2
    finally:
        ray.shutdown()
    agents.stop()
    assert agents.leftovers() == []
