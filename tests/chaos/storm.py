"""One round of chaos in a bucket: four machines and two drivers on a bad network, all of them hurt.

What happens when is drawn from a seed; the rest is as it comes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

import cloudray as ray
from cloudray import platform
from cloudray.folders import sweep
from cloudray.store import Reliable, Store, open_store
from tests import buckets
from tests.chaos import workload
from tests.chaos.cluster import EXECUTOR
from tests.chaos.proxy import Door, Fate, Proxy, Weather
from tests.chaos.words import final_words
from tests.chaos.workload import Item
from tests.integration.programs import ROOT
from tests.servers import CREDENTIALS, Server

MACHINES, CPUS = 4, 2
TIMING = buckets.HASTY
#: How long a machine is paused or cut off: past its lease, as others see it.
AWAY_S = (TIMING.lease_s * 1.5, TIMING.lease_s * 2.0)
#: Between two blows.
BREATH_S = (0.1, 0.7)
#: How long what must happen may take on a busy machine.
PATIENCE_S = 90.0


class Report(NamedTuple):
    """What a round was, and what went wrong in it."""

    seed: int
    tasks: int
    executions: int
    blows: Counter[str]
    fates: Counter[Fate]
    took_s: float
    faults: list[str]
    #: what the machines and drivers had to say
    said: str

    def line(self) -> str:
        """All of it but what was said, on a line."""
        blows = ", ".join(f"{count} x {what}" for what, count in sorted(self.blows.items()))
        harmed = sum(count for fate, count in self.fates.items() if fate is not Fate.PASSED)
        verdict = "; ".join(self.faults[:5]) or "all right"
        return (
            f"seed {self.seed}: {self.tasks} tasks, {self.executions} executions, {blows}; "
            f"{harmed} of {self.fates.total()} requests harmed, {self.took_s:.1f} s: {verdict}"
        )


class Machine:
    """An agent and its executors, behind a door of their own."""

    def __init__(self, address: str, door: Door, folder: Path, *, hidden: bool) -> None:
        self.door = door
        self.log = folder / "log"
        sockets = folder / "run"
        sockets.mkdir(parents=True)
        agent = [sys.executable, "-m", "cloudray", "worker", address, f"--num-cpus={CPUS}"]
        if hidden:
            hide = 'mount -t tmpfs none "$0" && exec "$@"'
            agent = ["unshare", "--mount", "sh", "-c", hide, str(sockets), *agent]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                agent,
                cwd=ROOT,
                env=_environment(XDG_RUNTIME_DIR=str(sockets)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.away = False

    @property
    def runs(self) -> bool:
        """Whether it is alive."""
        return self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        """The agent and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            agent = psutil.Process(self.process.pid)
            return [agent, *agent.children(recursive=True)]
        return []

    def executors(self) -> list[psutil.Process]:
        """Those that run tasks."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == EXECUTOR:
                    found.append(process)
        return found

    def send(self, number: int) -> None:
        """Send a signal to agent and executors, as a machine that stops or dies as a whole."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def end(self) -> None:
        """Kill what is left of it."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Round:
    """Machines, drivers, and what is done to them."""

    def __init__(self, server: Server, seed: int, folder: Path, proxy: Proxy) -> None:
        self._server = server
        self._seed = seed
        self._rng = Random(seed)
        self._folder = folder
        self._proxy = proxy
        # Every second round, no driver sees an agent's socket: as between real machines.
        self._hidden = seed % 2 == 1 and can_hide()
        self._prefix = f"chaos-{seed}-{os.urandom(4).hex()}"
        #: without the proxy
        self.address = server.address(self._prefix)
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.machines: list[Machine] = []
        self.drivers: list[subprocess.Popen[str]] = []
        self.blows: Counter[str] = Counter()
        self.seen: set[psutil.Process] = set()

    def way(self) -> tuple[str, Door]:
        """The cluster's address through a new door."""
        door = self._proxy.open()
        return self._server.address(self._prefix, port=door.port), door

    def start_machine(self) -> None:
        """Start an agent."""
        address, door = self.way()
        number = len(self.machines)
        if number % MACHINES == 1:
            # The second client weathers the same storm.
            address += "&client=aiobotocore"
        folder = self._folder / f"machine-{number}"
        self.machines.append(Machine(address, door, folder, hidden=self._hidden))

    def start_driver(self, name: str, manner: str) -> subprocess.Popen[str]:
        """Start a driver; its standard error goes to a file."""
        address, _ = self.way()
        arguments = [address, str(self.runs), name, str(self._seed), manner]
        with (self._folder / f"{name}.log").open("wb") as log:
            driver = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.workload", *arguments],
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.drivers.append(driver)
        return driver

    # -- what is done to them ----------------------------------------------------------------

    def storm(self, driver: subprocess.Popen[str]) -> None:
        """Kill, pause and cut, one after the other; then everybody is there again."""
        blows: list[tuple[str, Callable[[], Callable[[], None] | None]]] = [
            ("kill of a machine", self._kill_machine),
            ("kill of a machine", self._kill_machine),
            ("kill of an agent", self._kill_agent),
            ("kill of an executor", self._kill_executor),
            ("kill of an executor", self._kill_executor),
            ("pause", self._pause),
            ("cut", self._cut),
            ("pause of a driver", lambda: self._pause_driver(driver)),
        ]
        self._rng.shuffle(blows)
        if self._seed % 5 == 4:
            blows.append(("kill of every machine", self._kill_all))
        #: what is to be made good, and when
        mends: list[tuple[float, Callable[[], None]]] = []
        while blows or mends:
            time.sleep(self._rng.uniform(*BREATH_S))
            now_s = time.monotonic()
            for due in [mend for mend in mends if mend[0] <= now_s]:
                mends.remove(due)
                due[1]()
            if blows:
                what, strike = blows.pop(0)
                mend = strike()
                self.blows[what] += 1
                if mend is not None:
                    mends.append((time.monotonic() + self._rng.uniform(*AWAY_S), mend))

    def _victim(self) -> Machine:
        """A machine that is there."""
        here = [machine for machine in self.machines if machine.runs and not machine.away]
        return self._rng.choice(here)

    def _kill_machine(self) -> None:
        victim = self._victim()
        self._remember(victim)
        victim.send(signal.SIGKILL)
        victim.process.wait()
        self.start_machine()

    def _kill_agent(self) -> None:
        victim = self._victim()
        self._remember(victim)
        victim.process.kill()
        victim.process.wait()
        self.start_machine()

    def _kill_executor(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (victims := self._victim().executors()):
            assert time.monotonic() < deadline_s, "no machine has an executor"
            time.sleep(0.05)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._rng.choice(victims).kill()

    def _kill_all(self) -> None:
        for machine in [machine for machine in self.machines if machine.runs]:
            self._remember(machine)
            machine.send(signal.SIGKILL)
            machine.process.wait()
        for _ in range(MACHINES):
            self.start_machine()

    def _pause(self) -> Callable[[], None]:
        victim = self._victim()
        victim.away = True
        self._remember(victim)
        victim.send(signal.SIGSTOP)

        def resume() -> None:
            victim.send(signal.SIGCONT)
            victim.away = False

        return resume

    def _cut(self) -> Callable[[], None]:
        victim = self._victim()
        victim.away = True
        # A network that refuses, or one that swallows and delivers in the end.
        self._rng.choice([victim.door.cut, victim.door.stall])()

        def heal() -> None:
            victim.door.heal()
            victim.away = False

        return heal

    def _pause_driver(self, driver: subprocess.Popen[str]) -> Callable[[], None]:
        driver.send_signal(signal.SIGSTOP)
        return lambda: driver.send_signal(signal.SIGCONT)

    # -- how it ends -------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """Drain the machines; returns what is wrong with how they ended."""
        faults = []
        alive = [machine for machine in self.machines if machine.runs]
        for machine in alive:
            self._remember(machine)
            machine.process.terminate()
        for machine in alive:
            try:
                status = machine.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                faults.append("an agent that was told to drain did not end")
            else:
                if status != 0:
                    faults.append(f"an agent ended with exit status {status}")
        deadline_s = time.monotonic() + PATIENCE_S
        while left := [process for process in self.seen if _lives(process)]:
            if time.monotonic() > deadline_s:
                faults += [f"{process} outlived its agent" for process in left]
                break
            time.sleep(0.02)
        return faults

    def _remember(self, machine: Machine) -> None:
        self.seen.update(machine.family())

    def close(self) -> None:
        """End what still runs."""
        for driver in self.drivers:
            driver.kill()
            driver.communicate()
        for machine in self.machines:
            machine.end()
        # What killed agents kept outside of their machine's folder goes with the next agent.
        for base in (platform.memory_folder(), platform.spill_folder()):
            for kind in ("agent", "cache"):
                sweep(base, f"cloudray-{kind}-{os.getuid()}-")

    def said(self) -> str:
        """What machines and drivers have written to their logs."""
        logs = sorted([*self._folder.glob("*/log"), *self._folder.glob("*.log")])
        return "\n".join(f"--- {log.relative_to(self._folder)}\n{log.read_text()}" for log in logs)


def play(server: Server, seed: int, weather: Weather | None = None) -> Report:
    """Play one round."""
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    with (
        buckets.credentials(),
        Proxy(server.port, seed, weather or Weather()) as proxy,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        play = Round(server, seed, folder, proxy)
        stack.callback(play.close)
        buckets.create_cluster(play.address, TIMING)
        store = Reliable(open_store(play.address))
        stack.callback(store.close)
        for _ in range(MACHINES):
            play.start_machine()
        items, faults = _work(play, seed)
        faults += _left_in_queue(store)
        faults += play.stop()
        faults += _wrong_words(store)
        executions, wrong = _executions(play.runs, items)
        return Report(
            seed,
            len(items),
            executions,
            play.blows,
            proxy.fates(),
            time.monotonic() - began_s,
            faults + wrong,
            play.said(),
        )
    raise AssertionError


def _work(play: Round, seed: int) -> tuple[list[Item], list[str]]:
    """Let both drivers work in the storm; returns their tasks, and what is wrong with them."""
    leaving = play.start_driver("leaving", "leave")
    staying = play.start_driver("staying", "stay")
    assert leaving.stdout is not None
    submitted = leaving.stdout.readline()
    leaving.kill()
    leaving.wait()
    assert staying.stdout is not None
    if not submitted or staying.stdout.readline().strip() != '"up"':
        return [], ["a driver ended before it had submitted its tasks"]
    play.storm(staying)
    (play.runs / "over").touch()
    try:
        out, _ = staying.communicate(timeout=2 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        return [], ["the driver that stayed did not end"]
    if staying.returncode != 0:
        return [], [f"the driver that stayed ended with exit status {staying.returncode}"]
    told = json.loads(out)
    left = list(islice(workload.plan("leaving", seed), workload.LEAVING))
    stayed = list(islice(workload.plan("staying", seed), told["tasks"]))
    return left + stayed, [*told["faults"], *_collect(play, left, json.loads(submitted))]


def _collect(play: Round, items: list[Item], texts: list[str]) -> list[str]:
    """Somebody else collects what the killed driver had submitted: he has only the refs' text."""
    address, _ = play.way()
    ray.init(address, log_to_driver=False)
    try:
        return workload.collect(items, [ray.ObjectRef.from_hex(text) for text in texts])
    finally:
        ray.shutdown()


def _left_in_queue(store: Store) -> list[str]:
    """Batches that nobody takes out of the queue although they are over, or are not over."""
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [entry.key for entry in store.list("queue/") if entry.key.endswith(".0")]:
        if time.monotonic() > deadline_s:
            return [f"{key} stays in the queue" for key in left]
        time.sleep(0.1)
    return []


def _wrong_words(store: Store) -> list[str]:
    """Tasks with more than one final word that counts, and journals with holes."""
    try:
        words = final_words(store)
    except AssertionError as error:
        return [f"a journal is wrong: {error}"]
    return [f"{task} has {count} final words" for task, count in words.items() if count != 1]


def _executions(folder: Path, items: list[Item]) -> tuple[int, list[str]]:
    """How often tasks ran; and which of them never did, or twice although they must not."""
    ran = {path.name: path.stat().st_size for path in folder.iterdir()}
    faults = []
    for item in items:
        times = ran.get(item.name, 0)
        if item.kind == "fragile" and times > 1:
            faults.append(f"{item.name} has max_retries=0 and ran {times} times")
        elif item.kind != "fragile" and times == 0:
            faults.append(f"{item.name} never ran")
    return sum(ran.values()), faults


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT), **more}


@cache
def can_hide() -> bool:
    """Whether a process may be given a view of the files of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
