"""Executors, as their agent sees them: started when needed, kept warm, watched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from cloudray import platform
from cloudray.agent.connection import Connection
from cloudray.agent.functions import Kind, Known
from cloudray.agent.held import Held
from cloudray.agent.output import Output, kept_lines
from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand
from cloudray.protocol.records import Job

_log = logging.getLogger(__name__)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Assigned(msgspec.Struct):
    """A task that an executor has."""

    held: Held
    index: int
    attempt: int
    known: Known
    estimated_us: float


class Worker:
    """One executor process."""

    def __init__(self, kind: Kind, token: str, process: subprocess.Popen[bytes]) -> None:
        self.kind = kind
        self.token = token
        self.process = process
        self.pid = process.pid
        self.connection: Connection | None = None
        #: what it has, in the order it runs them
        self.tickets: dict[int, Assigned] = {}
        #: what it takes of the machine while it has work
        self.demand: Demand | None = None
        self.lent = False
        self.leaving = False
        self.recalled = False
        self.queued_us = 0.0
        self.idle_since_s = 0.0
        self.progress_s = 0.0
        self.learned: dict[Known, int] = {}
        self.kept = kept_lines()
        self.outputs: list[Output] = []
        #: messages that wait until what came before them has been written
        self.inbox: deque[m.Message] = deque()
        self.resolved: list[tuple[bytes, int, bytes]] = []
        self.progress: mmap.mmap | None = None

    @property
    def available(self) -> bool:
        """Whether it could take work now."""
        return self.connection is not None and not self.leaving and not self.tickets

    def send(self, message: m.Message) -> None:
        """Send to the executor."""
        if self.connection is not None:
            self.connection.send(message)

    def running_ticket(self) -> int:
        """The call it began last; still readable when the process is dead."""
        return int.from_bytes(self.progress[:8], "little") if self.progress is not None else 0

    def kill(self) -> None:
        """End it now, with whatever it has started."""
        if self.process.returncode is None:
            # Not reaped, so the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class Workers:
    """All executors of this agent."""

    def __init__(
        self,
        socket_path: str,
        spool: Path,
        on_gone: Callable[[Worker, int], None],
        on_line: Callable[[bytes, m.Line], None],
    ) -> None:
        self._socket_path = socket_path
        self._spool = spool
        self._on_gone = on_gone
        self._on_line = on_line
        self._tokens: dict[str, Worker] = {}
        self.all: set[Worker] = set()
        self.idle: dict[Kind, list[Worker]] = {}
        self.starting: dict[Kind, int] = {}
        self._tickets = 0

    def next_ticket(self) -> int:
        """A number for a call that no other call of this agent has."""
        self._tickets += 1
        return self._tickets

    def start(self, kind: Kind) -> None:
        """Start an executor; it reports with `Ready` when it can take work."""
        token = os.urandom(8).hex()
        progress_path = self._spool / f"{token}.progress"
        progress_path.write_bytes(bytes(mmap.PAGESIZE))
        environment = _environment(kind.env_vars)
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                sys.executable,
                "-m",
                "cloudray.executor",
                self._socket_path,
                token,
                str(progress_path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        worker = Worker(kind, token, process)
        with progress_path.open("r+b") as file:
            worker.progress = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        for pipe, is_error in ((process.stdout, False), (process.stderr, True)):
            if pipe is not None:
                output = Output(
                    os.dup(pipe.fileno()),
                    is_error=is_error,
                    kept=worker.kept,
                    on_line=lambda line: self._on_line(kind.job, line),
                )
                pipe.close()
                output.pid = worker.pid
                worker.outputs.append(output)
        self._tokens[token] = worker
        self.all.add(worker)
        self.starting[kind] = self.starting.get(kind, 0) + 1
        self._watch(worker, progress_path)

    def kind_of(self, token: str) -> Kind | None:
        """What an executor that reports with this token was started for."""
        worker = self._tokens.get(token)
        return None if worker is None else worker.kind

    def connected(
        self, connection: Connection, token: str, job: Job, node: str, log: str
    ) -> Worker:
        """An executor reports: set it up."""
        worker = self._tokens[token]
        worker.connection = connection
        self.starting[worker.kind] -= 1
        worker.send(m.Setup(job, worker.kind.days, node, str(self._spool), log))
        return worker

    def rest(self, worker: Worker, now_s: float) -> None:
        """It has no work: keep it warm."""
        worker.idle_since_s = now_s
        self.idle.setdefault(worker.kind, []).append(worker)

    def idle_one(self, kind: Kind) -> Worker | None:
        """A warm executor of this kind, taken off the idle list."""
        waiting = self.idle.get(kind)
        while waiting:
            worker = waiting.pop()
            if worker.available:
                return worker
        return None

    def teach(self, worker: Worker, known: Known) -> int:
        """The number under which an executor knows a function, after telling it if need be."""
        number = worker.learned.get(known)
        if number is None:
            number = worker.learned[known] = len(worker.learned)
            worker.send(m.Learn(number, known.shape, known.pickled))
        return number

    def trim(self, keep: int, now_s: float, idle_s: float) -> None:
        """Let executors go that have been idle for long, down to `keep`."""
        for waiting in self.idle.values():
            for worker in list(waiting):
                if len(self.all) > keep and now_s - worker.idle_since_s > idle_s:
                    waiting.remove(worker)
                    worker.leaving = True
                    worker.send(m.Leave())

    def stop(self) -> None:
        """Kill all executors."""
        for worker in self.all:
            worker.kill()

    def _watch(self, worker: Worker, progress_path: Path) -> None:
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            # What it started may outlive it, and must not. Its own number is still taken: it is
            # reaped only afterwards.
            worker.kill()
            returncode = worker.process.wait()
            for output in worker.outputs:
                output.drain()
                output.close()
            progress_path.unlink(missing_ok=True)
            self._forget(worker)
            self._on_gone(worker, returncode)

        descriptor = platform.exit_descriptor(worker.pid)
        loop.add_reader(descriptor, gone)

    def _forget(self, worker: Worker) -> None:
        self.all.discard(worker)
        self._tokens.pop(worker.token, None)
        if worker.connection is None:
            self.starting[worker.kind] -= 1
        else:
            worker.connection.close()
        waiting = self.idle.get(worker.kind, [])
        if worker in waiting:
            waiting.remove(worker)


def _environment(env_vars: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The agent's environment with a task's variables, in which `${NAME}` is the agent's NAME."""
    environment = dict(os.environ)
    for name, value in env_vars:
        environment[name] = _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), value)
    if "PYTHONPATH" in dict(env_vars):
        ours = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] += f"{os.pathsep}{ours}"
    return environment
