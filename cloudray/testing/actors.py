"""Simulated agents and drivers: the real ones, in processes of a simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from cloudray import ids
from cloudray.agent.core import Agent
from cloudray.driver.client import DriverClient
from cloudray.protocol.joining import join
from cloudray.protocol.records import Job, seal
from cloudray.store import Ledger, Put, Reliable, drive, drive_async, layout
from cloudray.testing.bucket import Bucket, Link
from cloudray.testing.executors import Machine, Runs, SimulatedWorkers
from cloudray.testing.scheduler import Process, Scheduler
from cloudray.testing.threads import VirtualThread
from cloudray.timing import Timing

#: A job's retention class, in days.
DAYS = 7


class SimulatedAgent:
    """An agent process, the machine it is on, and its connection to the bucket."""

    def __init__(
        self,
        scheduler: Scheduler,
        bucket: Bucket,
        rng: Random,
        runs: Runs,
        *,
        name: str,
        slots: int,
        timing: Timing,
        spool: Path,
        skew_s: float = 0.0,
        drift: float = 1.0,
        start_s: float = 0.2,
    ) -> None:
        self.process = Process(scheduler, name, skew_s=skew_s, drift=drift)
        executors = Process(scheduler, f"{name} executors", skew_s=skew_s, drift=drift)
        self.machine = Machine(executors, runs, rng, spool, start_s)
        self.machine.agent = self.process
        self.link = Link(bucket, self.process)
        self.agent: Agent | None = None
        #: it has left on its own
        self.gone = False
        self._slots = slots
        self._timing = timing
        self._rng = rng
        self._stop = asyncio.Event()
        self._spool = spool
        self.process.call_soon(self._start)

    @property
    def alive(self) -> bool:
        """Whether it could do anything, now or when it is resumed."""
        return not (self.gone or self.process.killed)

    def kill(self) -> None:
        """End the machine: agent and executors."""
        self.process.kill()
        self.machine.process.kill()
        self.link.lost = 0.5

    def pause(self, *, executors: bool) -> None:
        """Freeze the agent, and its executors too as if the lid was closed."""
        self.process.pause()
        if executors:
            self.machine.process.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.process.resume()
        self.machine.process.resume()

    def drain(self, patience_s: float) -> None:
        """What SIGTERM does."""
        self.process.call_soon(lambda: self.process.spawn(self._drain(patience_s)))

    async def _drain(self, patience_s: float) -> None:
        if self.agent is not None:
            await self.agent.drain(patience_s)
        self._stop.set()

    def kill_executor(self) -> None:
        """End one of its executors."""
        if self.agent is not None and self.agent.workers.all:
            self._rng.choice(list(self.agent.workers.all)).kill()

    def _start(self) -> None:
        self.process.spawn(self._run())

    async def _run(self) -> None:
        store = reliable(self.link, self.process, self._rng)
        settings = await drive_async(store, join(store.url, self._timing))
        self.agent = Agent(
            store,
            settings,
            {"CPU": self._slots * 10_000, "memory": 64 << 30},
            f"/nonexistent/{self.process.name}",
            self._spool,
            Ledger(),
            None,  # type: ignore[arg-type] # the workers below start nothing with it
            clock=self.process.time,
            rng=Random(self._rng.getrandbits(64)),
            make_workers=partial(SimulatedWorkers, self.machine),
        )
        self.machine.connect = self.agent.connection_factory  # type: ignore[assignment]
        await self.agent.run(self._stop)
        self.gone = True
        self.machine.process.kill()
        self.process.kill()


def reliable(link: Link, process: Process, rng: Random) -> Reliable:
    """The store as the product uses it, waiting in virtual time."""

    def sleep(delay_s: float) -> None:
        thread = process.scheduler.baton.holder
        if thread is not None:
            thread.park(delay_s)

    return Reliable(link, rng=Random(rng.getrandbits(64)), clock=process.time, sleep=sleep)


class SimulatedDriver:
    """A driver process: the real client, and a script that uses it in a thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        bucket: Bucket,
        rng: Random,
        script: Callable[[SimulatedDriver, DriverClient], None],
        *,
        name: str,
        timing: Timing,
        skew_s: float = 0.0,
        drift: float = 1.0,
        job: bytes | None = None,
    ) -> None:
        self.process = Process(scheduler, name, skew_s=skew_s, drift=drift)
        self.link = Link(bucket, self.process)
        self.finished = False
        self.client: DriverClient | None = None
        self._script = script
        self._timing = timing
        self._rng = rng
        self._job = job
        self._bucket = bucket
        self._baton = scheduler.baton
        self.process.call_soon(self._start)

    @property
    def alive(self) -> bool:
        """Whether it could do anything, now or when it is resumed."""
        return not (self.finished or self.process.killed)

    def rest(self, delay_s: float) -> None:
        """Let time pass, in its script."""
        thread = self._baton.holder
        if thread is not None:
            thread.park(delay_s)

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.link.lost = 0.5

    def pause(self) -> None:
        """Freeze it."""
        self.process.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.process.resume()

    def _start(self) -> None:
        VirtualThread(self.process, self._main, name=self.process.name).start()

    def _main(self) -> None:
        store = reliable(self.link, self.process, self._rng)
        settings = drive(store, join(store.url, self._timing))
        job = Job(
            id=self._job or ids.new_timed_id(),
            python="3.11",
            host="simulated",
            pid=1,
            started_at=self.process.wall_s(),
            sys_path=(),
            cwd="/",
        )
        prefix = ids.batch_prefix(DAYS, job.id, bytes(ids.ID_BYTES))
        store.perform(Put(layout.meta(prefix), seal(job)))
        client = self.client = DriverClient(
            store, Ledger(), settings, job, days=DAYS, log_to_driver=False
        )
        try:
            self._script(self, client)
            client.close()
        finally:
            self.finished = True
