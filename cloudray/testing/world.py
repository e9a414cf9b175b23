"""A small world from a seed: agents, drivers, a mix of programs, and everything that goes wrong."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec

from cloudray.driver.client import DriverClient
from cloudray.protocol.records import Entry, Verb, unseal
from cloudray.store import layout
from cloudray.store.base import Create, Op
from cloudray.testing.actors import SimulatedAgent, SimulatedDriver
from cloudray.testing.bucket import Bucket, Latency, Trouble
from cloudray.testing.executors import Runs
from cloudray.testing.history import History, line
from cloudray.testing.queue import URL, Delivery, SimulatedQueue
from cloudray.testing.readings import Readings, ViolationError
from cloudray.testing.scheduler import Process, RestlessError, Scheduler
from cloudray.testing.scripts import Script
from cloudray.testing.substitutes import Inside, installed
from cloudray.timing import Timing

#: After the last disturbance, work must be over within so many leases, beside what it takes.
_CALM_LEASES = 25
#: ... and the queue and all claims must be gone within so many more.
_TIDY_LEASES = 12
#: Worlds take some ten thousand turns; one that takes so many goes round in circles.
_MAX_TURNS = 400_000


class Plan(msgspec.Struct, frozen=True):
    """What is drawn for a world from its seed."""

    agents: int
    slots: int
    drivers: int
    #: tasks of all drivers together, roughly
    tasks: int
    timing: Timing
    latency: Latency
    trouble: Trouble
    #: how messages travel where an SQS queue is the doorbell; None: the bucket's bell is
    delivery: Delivery | None
    #: disturbances, and during how many seconds they come
    disturbances: int
    disturbed_s: float


def draw_plan(rng: Random, *, agents: int | None = None, tasks: int | None = None) -> Plan:
    """Draw a world."""
    rate = rng.choice((0.0, 0.03, 0.1, 0.2)) / 6
    lease_s = rng.choice((2.0, 3.0))
    median_s = rng.choice((0.002, 0.005, 0.02))
    return Plan(
        agents=agents or rng.randint(3, 8),
        slots=rng.randint(1, 3),
        drivers=rng.randint(1, 2),
        tasks=tasks or rng.randint(60, 240),
        timing=Timing(
            heartbeat_s=lease_s / 4,
            lease_s=lease_s,
            commit_s=rng.choice((0.1, 0.2)),
            scan_s=rng.choice((0.5, 1.0)),
        ),
        latency=rng.choice(
            (
                Latency.constant(median_s),
                Latency(
                    median_s,
                    6 * median_s,
                    1.5 * median_s,
                    10 * median_s,
                    2.5 * median_s,
                    15 * median_s,
                ),
            )
        ),
        trouble=Trouble(rate, rate, rate, rate, rate, rate, timeout_s=1.0, delay_s=2.0),
        delivery=rng.choice((None, None, Delivery(), Delivery(lost=0.3, twice=0.2, late=0.3))),
        disturbances=rng.choice((0, 2, 4, 6, 8)),
        disturbed_s=rng.uniform(2.0, 8.0),
    )


class World:
    """Runs a plan. Use it with `with`: it owns a folder for large values.

    >>> with World(7) as world:
    ...     world.run()
    ...     world.runs.started != {}
    True
    """

    def __init__(
        self,
        seed: int,
        *,
        agents: int | None = None,
        tasks: int | None = None,
        history: History | None = None,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.plan = draw_plan(self.rng, agents=agents, tasks=tasks)
        self.history = history
        self.scheduler = Scheduler()
        self.runs = Runs()
        self.agents: list[SimulatedAgent] = []
        self.drivers: list[SimulatedDriver] = []
        self.scripts: list[Script] = []
        delivery, latency = self.plan.delivery, self.plan.latency
        self.queue = None
        url = "s3://simulated"
        if delivery is not None:
            self.queue = SimulatedQueue(
                self.scheduler, self._fork(), latency_s=latency.put_s, delivery=delivery
            )
            url += f"?sqs={URL}"
        self.bucket = Bucket(
            self.scheduler, self._fork(), latency=latency, trouble=self.plan.trouble, url=url
        )
        self.readings = Readings(self.runs)
        self.bucket.observers.append(self.readings.note)
        self.logged: list[str] = []
        self._fate = Process(self.scheduler, "fate")
        self._folder: Path | None = None
        self._crash_points: list[tuple[str, SimulatedAgent]] = []
        if history is not None:
            self.bucket.observers.append(self._tell_op)
            self.runs.on_start = self._tell_run

    # -- running -------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end, and look whether every invariant holds; raises `ViolationError`."""
        handler = _Errors(self.logged)
        logger = logging.getLogger("cloudray")
        propagates, logger.propagate = logger.propagate, False
        logger.addHandler(handler)
        try:
            with installed(Inside(self.scheduler, self._fork(), self.queue)):
                try:
                    self.scheduler.turns_limit = _MAX_TURNS
                    self._run()
                except RestlessError as restless:
                    raise ViolationError(
                        "it comes to no end: it goes round in circles"
                    ) from restless
                finally:
                    self._bury()
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagates

    def _run(self) -> None:
        plan = self.plan
        self.bucket.observers.append(self._look_for_crash_point)
        for _ in range(plan.agents):
            self.start_agent()
        for number in range(plan.drivers):
            script = Script(self._fork(), number, plan.tasks // plan.drivers, plan.disturbed_s)
            self.scripts.append(script)
            self._start_driver(script, f"driver{number}")
        for _ in range(plan.disturbances):
            moment_s = self.rng.uniform(0.1, plan.disturbed_s)
            self._fate.call_later(moment_s, self._disturb)
        self._fate.call_later(plan.disturbed_s + plan.timing.lease_s * 3, self._calm)
        calm_s = plan.disturbed_s + 3 * plan.timing.lease_s
        limit_s = calm_s + _CALM_LEASES * plan.timing.lease_s
        self.scheduler.run(self._over, limit_s)
        self._check_errors()
        self.readings.check_over(self)
        # What is left in the queue goes within some leases.
        tidy_s = self.scheduler.now_s + _TIDY_LEASES * plan.timing.lease_s
        self.scheduler.run(self._tidy, tidy_s)
        self._check_errors()
        self.readings.check_end(self)

    def _over(self) -> bool:
        return (
            self.scheduler.now_s > self.plan.disturbed_s
            and all(not driver.alive for driver in self.drivers)
            and self.readings.unfinished() == 0
        )

    def _tidy(self) -> bool:
        return not self.readings.left_in_queue(self)

    def _bury(self) -> None:
        processes = [driver.process for driver in self.drivers]
        for agent in self.agents:
            processes += [agent.process, agent.machine.process]
        for process in processes:
            process.bury()

    def _check_errors(self) -> None:
        if self.scheduler.errors:
            name, context = self.scheduler.errors[0]
            error = context.get("exception")
            raise ViolationError(f"{name} raised {error!r}: {context.get('message')}") from error
        if self.logged:
            raise ViolationError(f"an error was logged: {self.logged[0]}")

    # -- who is there --------------------------------------------------------------------------

    def start_agent(self) -> SimulatedAgent:
        """Let an agent join."""
        rng = self._fork()
        agent = SimulatedAgent(
            self.scheduler,
            self.bucket,
            rng,
            self.runs,
            name=f"agent{len(self.agents)}",
            slots=self.plan.slots,
            timing=self.plan.timing,
            spool=self.folder,
            skew_s=rng.uniform(-300, 300),
            drift=rng.uniform(0.99, 1.01),
            start_s=rng.choice((0.0, 0.05, 0.3)),
        )
        self.agents.append(agent)
        return agent

    def _start_driver(self, script: Script, name: str) -> None:
        rng = self._fork()
        run: Callable[[SimulatedDriver, DriverClient], None] = script.run
        driver = SimulatedDriver(
            self.scheduler,
            self.bucket,
            rng,
            run,
            name=name,
            timing=self.plan.timing,
            skew_s=rng.uniform(-300, 300),
            drift=rng.uniform(0.99, 1.01),
        )
        self.drivers.append(driver)

    # -- what goes wrong -----------------------------------------------------------------------

    def _disturb(self) -> None:
        kinds = ("kill", "point", "point", "pause", "pause", "cut", "executor", "drain", "driver")
        kind = self.rng.choice(kinds)
        # If none is alive, the next ones are on their way.
        if agents := [agent for agent in self.agents if agent.alive]:
            agent = self.rng.choice(agents)
            self.tell(f"fate: {kind} {agent.process.name}")
            self._afflict(agent, kind)

    def _afflict(self, agent: SimulatedAgent, kind: str) -> None:
        rng, lease_s = self.rng, self.plan.timing.lease_s
        if kind == "kill":
            self._kill(agent)
        elif kind == "point":
            points = ("claim", "entry", "beat", *(verb.name for verb in Verb))
            self._crash_points.append((rng.choice(points), agent))
        elif kind == "pause":
            agent.pause(executors=rng.choice((False, True)))
            self._fate.call_later(rng.uniform(0.2, 2.5) * lease_s, self._resume, agent)
        elif kind == "cut":
            link = rng.choice([agent.link, *(driver.link for driver in self.drivers)])
            link.cut = True
            self._fate.call_later(
                rng.uniform(0.2, 2.0) * lease_s, lambda: setattr(link, "cut", False)
            )
        elif kind == "executor":
            agent.kill_executor()
        elif kind == "drain":
            agent.drain(rng.uniform(0.0, 2.0) * lease_s)
            self._replace()
        elif kind == "driver":
            driver = rng.choice(self.drivers)
            if driver.alive and rng.choice((False, True)):
                driver.kill()
                driver.process.bury()
            elif driver.alive:
                driver.pause()
                self._fate.call_later(rng.uniform(0.2, 2.0) * lease_s, driver.resume)

    def _kill(self, agent: SimulatedAgent) -> None:
        if agent.alive:
            agent.kill()
            self._replace()

    def _replace(self) -> None:
        """A fleet may be smaller for a while, but it comes back."""
        self._fate.call_later(
            self.rng.uniform(0.0, 1.5) * self.plan.timing.lease_s, self.start_agent
        )

    def _resume(self, agent: SimulatedAgent) -> None:
        self.tell(f"fate: resume {agent.process.name}")
        agent.resume()

    def _calm(self) -> None:
        """From now on everything works."""
        self.tell("fate: from now on nothing goes wrong any more")
        self.bucket.trouble = Trouble()
        self._crash_points.clear()

    def _look_for_crash_point(self, who: str, op: Op, answer: Any) -> None:
        if not self._crash_points or type(op) is not Create or answer is not True:
            return
        for point in self._crash_points:
            kind, agent = point
            if agent.process.name == who and kind in _kinds_of(op):
                self._crash_points.remove(point)
                self.tell(f"fate: {who} dies as it has said {kind}")
                self._fate.call_soon(self._kill, agent)
                return

    # -- telling -------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Note an event, for whoever has to understand a violation."""
        if self.history is not None:
            self.history.add(self.scheduler.now_s, text)

    def _tell_op(self, who: str, op: Op, answer: Any) -> None:
        text = line(who, op, answer)
        if text:
            self.tell(text)

    def _tell_run(self, key: str, run: int, where: str) -> None:
        self.tell(f"{where}: {key} starts as run {run}")

    def summary(self) -> str:
        """What it was, in figures."""
        tasks = sum(len(batch.tasks) for batch in self.readings.batches.values())
        return (
            f"{len(self.agents)} agents, {tasks} tasks in {len(self.readings.batches)} batches, "
            f"{self.scheduler.now_s:.1f} virtual seconds, {self.scheduler.turns} turns, "
            f"{self.bucket.ledger}"
        )

    def _fork(self) -> Random:
        return Random(self.rng.getrandbits(64))

    @property
    def folder(self) -> Path:
        """Where large values are written."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="cloudray-simulated-"))
        return self._folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(self.format(record))


def _kinds_of(op: Create) -> set[str]:
    """What a create says, as crash points name it."""
    if op.key.startswith(layout.QUEUE):
        return {"entry" if op.key.endswith(".0") else "claim"}
    if "/results/" in op.key:
        entry = unseal(Entry, op.body, op.key)  # type: ignore[arg-type]
        return {word.verb.name for word in entry.words}
    return set()
