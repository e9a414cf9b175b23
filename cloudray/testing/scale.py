"""What object storage allows: throughput, requests, latency, and the price of waiting."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from cloudray.store import Ledger, layout
from cloudray.store.base import Create, Put
from cloudray.testing import programs
from cloudray.testing.actors import SimulatedAgent, SimulatedDriver
from cloudray.testing.bucket import Bucket, Latency, Limits
from cloudray.testing.executors import Runs
from cloudray.testing.programs import Program, Simulated
from cloudray.testing.queue import URL, SimulatedQueue
from cloudray.testing.scheduler import Process, Scheduler
from cloudray.testing.substitutes import Inside, installed
from cloudray.timing import REMOTE

if TYPE_CHECKING:
    from cloudray.driver.client import DriverClient

#: Agents join, hear the bell for the first time and grow quiet before anything is measured.
_SETTLING_S = 60.0
#: No measurement takes longer, in virtual seconds.
_LIMIT_S = 7200.0
_HOUR_S = 3600.0
#: Between two tasks of which the latency is measured.
_PAUSE_S = 1.0


class Fleet:
    """Agents and a bucket without trouble, in virtual time, with the times of object storage."""

    def __init__(
        self, seed: int, agents: int, slots: int, latency: Latency, *, sqs: bool = False
    ) -> None:
        rng = Random(seed)
        self.scheduler = Scheduler()
        self.queue = None
        url = "s3://simulated"
        if sqs:
            self.queue = SimulatedQueue(self.scheduler, rng, latency_s=latency.put_s)
            url += f"?sqs={URL}"
        self.bucket = Bucket(self.scheduler, rng, latency=latency, limits=Limits(), url=url)
        self.rng = rng
        self._folder = tempfile.TemporaryDirectory(prefix="cloudray-simulated-")
        self._processes: list[Process] = []
        for number in range(agents):
            agent = SimulatedAgent(
                self.scheduler,
                self.bucket,
                Random(rng.getrandbits(64)),
                Runs(),
                name=f"agent{number}",
                slots=slots,
                timing=REMOTE,
                spool=Path(self._folder.name),
                start_s=0.1,
            )
            self._processes += [agent.process, agent.machine.process]

    def drive(self, script: object) -> SimulatedDriver:
        """Start a driver."""
        driver = SimulatedDriver(
            self.scheduler,
            self.bucket,
            Random(self.rng.getrandbits(64)),
            script,  # type: ignore[arg-type]
            name="driver",
            timing=REMOTE,
        )
        self._processes.append(driver.process)
        return driver

    def run_until(self, now_s: float) -> None:
        """Let time pass."""
        self.scheduler.run(lambda: False, now_s)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.bury()
        self._folder.cleanup()


@contextmanager
def fleet(
    seed: int, agents: int, slots: int, latency: Latency, *, sqs: bool = False
) -> Iterator[Fleet]:
    """A fleet, for as long as the context lasts; the package's time is virtual meanwhile."""
    logging.getLogger("cloudray").setLevel(logging.CRITICAL)
    made = Fleet(seed, agents, slots, latency, sqs=sqs)
    gc.collect()
    gc.disable()
    try:
        with installed(Inside(made.scheduler, made.rng, made.queue)):
            try:
                yield made
            finally:
                made.close()
    finally:
        gc.enable()
        logging.getLogger("cloudray").setLevel(logging.NOTSET)


class Throughput(msgspec.Struct, frozen=True):
    """What many tiny tasks took."""

    tasks: int
    #: from the first submission until the last value was read, in virtual seconds
    seconds: float
    requests: Ledger
    #: batches that they travelled in
    batches: int
    #: requests that were refused because a prefix had too many
    slowed: int

    @property
    def tasks_per_s(self) -> float:
        """Tasks per virtual second."""
        return self.tasks / self.seconds

    @property
    def requests_per_task(self) -> float:
        """Priced requests per task."""
        return self.requests.priced_requests / self.tasks

    def __str__(self) -> str:
        return (
            f"{self.tasks:,} tasks in {self.seconds:.2f} virtual seconds: "
            f"{self.tasks_per_s:,.0f} per second; {self.requests_per_task:.4f} priced requests "
            f"per task, ${self.requests.cost_usd() / self.tasks * 1e6:.3f} per million; "
            f"{self.batches} batches; {self.slowed} refused; {self.requests}"
        )


def throughput(
    *,
    agents: int = 1000,
    slots: int = 2,
    tasks: int = 1_000_000,
    sleep_us: int = 1000,
    latency: Latency | None = None,
    seed: int = 1,
) -> Throughput:
    """Run many tiny tasks of one driver on many agents; measure what they cost."""
    with fleet(seed, agents, slots, latency or Latency()) as running:
        running.run_until(_SETTLING_S)
        before = running.bucket.ledger.as_dict()
        times: list[float] = []
        batches: set[str] = set()
        clock = running.scheduler

        def note(_: str, op: object, answer: object) -> None:
            key = getattr(op, "key", "")
            if answer is True and key.startswith("queue/") and key.endswith(".0"):
                batches.add(key)

        running.bucket.observers.append(note)

        def script(_: SimulatedDriver, client: DriverClient) -> None:
            prepared = client.prepare(Simulated("tiny", 3), programs.Options())
            body = programs.encode(Program("tiny", sleep_us, 1))
            times.append(clock.now_s)
            refs = [client.submit(prepared, body, b"", (), ()) for _ in range(tasks)]
            values = client.get(refs, None)
            times.append(clock.now_s)
            if len(values) != tasks or sum(value.number for value in values) != tasks:
                msg = "values are missing"
                raise RuntimeError(msg)

        driver = running.drive(script)
        clock.run(lambda: driver.finished, _LIMIT_S)
        if clock.errors:
            raise RuntimeError(str(clock.errors[0]))
        requests = running.bucket.ledger.subtract(before)
        return Throughput(tasks, times[1] - times[0], requests, len(batches), running.bucket.slowed)


def idle_usd_per_hour(*, agents: int = 1, hours: float = 1.0, seed: int = 1) -> float:
    """What one of some idle agents costs per hour, in US dollars, measured over so many."""
    with fleet(seed, agents, 2, Latency()) as running:
        running.run_until(_SETTLING_S)
        before = running.bucket.ledger.as_dict()
        running.run_until(_SETTLING_S + hours * _HOUR_S)
        return running.bucket.ledger.subtract(before).cost_usd() / agents / hours


class CriticalPath(msgspec.Struct, frozen=True):
    """One task from its submission until its value is read, where every request takes as long."""

    latency_s: float
    total_s: float
    #: from when the ring stood in the bell until the agent heard it, in seconds; 0 with SQS
    bell_wait_s: float
    #: from when the result stood in the journal until the driver read it, in seconds
    result_wait_s: float

    @property
    def requests(self) -> float:
        """How many requests came one after the other, beside the two waits."""
        return (self.total_s - self.bell_wait_s - self.result_wait_s) / self.latency_s


def critical_path(
    *, latency_s: float = 0.02, seed: int = 1, agents: int = 1, sqs: bool = False
) -> CriticalPath:
    """Run single tasks that take no time, the last of them with all caches warm, and follow it."""
    with fleet(seed, agents, 2, Latency.constant(latency_s), sqs=sqs) as running:
        running.run_until(_SETTLING_S)
        clock = running.scheduler
        times: dict[str, float] = {}

        def note(who: str, op: object, answer: object) -> None:
            key = getattr(op, "key", "")
            stored_s = clock.now_s + latency_s / 2
            if type(op) is Put and key == layout.BELL:
                times["rung"] = stored_s
            elif type(op) is Create and answer is True and key.startswith(layout.QUEUE):
                # An agent claims as soon as it has heard.
                if not key.endswith(".0"):
                    times["heard"] = clock.now_s - latency_s / 2
            elif type(op) is Create and answer is True and who != "driver":
                times["published"] = stored_s

        running.bucket.observers.append(note)

        def script(driver: SimulatedDriver, client: DriverClient) -> None:
            prepared = client.prepare(Simulated("tiny", 3), programs.Options())
            body = programs.encode(Program("tiny", 0, 1))
            for _turn in range(3):
                times["begun"] = clock.now_s
                client.get([client.submit(prepared, body, b"", (), ())], None)
                times["read"] = clock.now_s
                # A submitter rings only so often.
                driver.rest(_PAUSE_S)

        driver = running.drive(script)
        clock.run(lambda: driver.finished, _LIMIT_S)
        return CriticalPath(
            latency_s,
            times["read"] - times["begun"],
            0.0 if sqs else times["heard"] - times["rung"],
            times["read"] - times["published"],
        )
