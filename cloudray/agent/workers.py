"""Executors, as their agent sees them: started when needed, kept warm, watched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import re
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cloudray import platform
from cloudray.agent.connection import Connection
from cloudray.agent.functions import Kind, Known
from cloudray.agent.held import Held
from cloudray.agent.output import Output, kept_lines
from cloudray.agent.packages import NOTHING, Furnished
from cloudray.agent.starters import Starter
from cloudray.exceptions import RuntimeEnvSetupError
from cloudray.executor.zygote import Output as Pipes
from cloudray.executor.zygote import StartRequest, request_start
from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand
from cloudray.store.files import FULL

_log = logging.getLogger(__name__)
#: How long a killed executor may take to be gone.
_DYING_S = 10.0
_BROKEN_LINK = (
    "(the process closed file descriptors that it had not opened, among them its connection to "
    "its agent)"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Assigned(msgspec.Struct):
    """A task that an executor has."""

    held: Held
    index: int
    attempt: int
    known: Known
    estimated_us: float
    #: looks whether its time is over, where that is limited
    timer: asyncio.TimerHandle | None = None
    #: its time was over while it ran
    expired: bool = False


class Worker:
    """One executor process."""

    def __init__(self, kind: Kind | None, token: str) -> None:
        #: None for one that was started before anything was known of the work to come
        self.kind = kind
        self.token = token
        #: the code that was made ready for it
        self.furnished = NOTHING
        #: 0 until it is known
        self.pid = 0
        self.reaped = False
        #: it has been told its job
        self.ready = False
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
        #: when it began to work, or ended a call
        self.progress_s = 0.0
        self.learned: dict[Known, int] = {}
        #: the last lines of its output and of its errors: what comes by one pipe pushes out nothing
        #: of the other's, whichever is read first
        self.kept = kept_lines(), kept_lines()
        self.outputs: list[Output] = []
        #: messages that wait until what came before them has been written
        self.inbox: deque[m.Message] = deque()
        #: called when that is empty, once it has ended
        self.on_heard: Callable[[], None] | None = None
        self.resolved: list[tuple[bytes, int, bytes]] = []
        self.progress: mmap.mmap | None = None

    @property
    def available(self) -> bool:
        """Whether it could take work now."""
        return self.ready and not self.leaving and not self.tickets

    def send(self, message: m.Message) -> None:
        """Send to the executor."""
        if self.connection is not None:
            self.connection.send(message)

    def release(self, ticket: int) -> Assigned | None:
        """Take a task off its hands; None if it does not have it."""
        assigned = self.tickets.pop(ticket, None)
        if assigned is not None:
            self.queued_us -= assigned.estimated_us
            assigned.held.out -= 1
            if assigned.timer is not None:
                assigned.timer.cancel()
        return assigned

    @property
    def last_lines(self) -> list[tuple[int, str]]:
        """What it printed last, with the tickets of the calls that did: output, then errors."""
        return [line for lines in self.kept for line in lines]

    def running_ticket(self) -> int:
        """The call it began last; still readable when the process is dead."""
        return int.from_bytes(self.progress[:8], "little") if self.progress is not None else 0

    def begun_s(self) -> float:
        """When it began the last call with a time limit, on `platform.monotonic_s`."""
        return int.from_bytes(self.progress[8:16], "little") / 1e9 if self.progress else 0.0

    def has_broken_link(self) -> bool:
        """Whether it ended because its connection to this agent was closed from within."""
        return self.progress is not None and bool(self.progress[16])

    def speaker_instead(self, marked: int) -> tuple[int, str] | None:
        """Who really prints under a mark whose call has ended: the one that runs now.

        Only Python's streams make marks; what native code prints comes without.
        """
        if marked in self.tickets:
            return None
        running = self.running_ticket()
        assigned = self.tickets.get(running)
        return None if assigned is None else (running, assigned.known.shape.name)

    def kill(self) -> None:
        """End it now, with whatever it has started."""
        if self.pid and not self.reaped:
            # Not reaped, so the number is still its own.
            platform.end_group(self.pid)


class Workers:
    """All executors of this agent.

    `setup_of` makes the first message for an executor of a kind; `on_ready` is called when one
    can take work, `on_gone` when one has ended.
    """

    #: whether its executors need a folder to work in, because their driver's is not here
    is_elsewhere: Callable[[Kind], bool] = staticmethod(lambda _: False)
    #: makes the code of a kind ready for one executor, or raises `RuntimeEnvSetupError`
    furnish: Callable[[Kind], Awaitable[Furnished]]
    #: removes what was made ready for one that has ended
    discard: Callable[[Furnished], Coroutine[Any, Any, None]]
    #: told that executors of a kind cannot start, and why
    on_unfit: Callable[[Kind, RuntimeEnvSetupError], None]

    def __init__(
        self,
        starter: Starter,
        spool: Path,
        setup_of: Callable[[Kind], m.Setup],
        on_ready: Callable[[], None],
        on_gone: Callable[[Worker, int], None],
        on_lines: Callable[[bytes, tuple[m.Line, ...]], None],
    ) -> None:
        self._starter = starter
        self._spool = spool
        #: where an executor's files lie when the spool has no room for them
        self.folder_when_full = spool
        self._setup_of = setup_of
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_lines = on_lines
        self._tokens: dict[str, Worker] = {}
        self.all: set[Worker] = set()
        self.idle: dict[Kind, list[Worker]] = {}
        self.starting: dict[Kind, int] = {}
        self._blank: list[Worker] = []
        self._tickets = 0
        self._empty = asyncio.Event()
        self._stopping = False
        #: code that is being made ready
        self._furnishing: set[asyncio.Task[None]] = set()
        #: ... and removed
        self._discarding: set[asyncio.Task[None]] = set()

    def next_ticket(self) -> int:
        """A number for a call that no other call of this agent has."""
        self._tickets += 1
        return self._tickets

    def start(self, kind: Kind) -> None:
        """Start an executor, or take one that was started ahead."""
        if self._stopping:
            return
        if kind.code or self.is_elsewhere(kind):
            self.starting[kind] = self.starting.get(kind, 0) + 1
            self._spawn(self._furnish_and_start(kind), self._furnishing)
        else:
            self._start(kind, NOTHING)

    async def _furnish_and_start(self, kind: Kind) -> None:
        try:
            furnished = await self.furnish(kind)
        except RuntimeEnvSetupError as error:
            self.starting[kind] -= 1
            self.on_unfit(kind, error)
            return
        except BaseException:
            self.starting[kind] -= 1
            raise
        self.starting[kind] -= 1
        if self._stopping:
            await self.discard(furnished)
        else:
            self._start(kind, furnished)

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            among.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("an executor's code could not be seen to", exc_info=error)

        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(ended)

    def _start(self, kind: Kind, furnished: Furnished) -> None:
        if self._blank and not kind.env_vars:
            self.starting[kind] = self.starting.get(kind, 0) + 1
            worker = self._blank.pop()
            worker.kind = kind
            worker.furnished = furnished
            if worker.connection is not None:
                asyncio.get_running_loop().call_soon(self._set_up, worker)
            return
        environment = _environment(kind.env_vars)
        try:
            request, output = request_start(self._spool, environment)
        except OSError as error:
            if error.errno not in FULL:
                raise
            request, output = request_start(self.folder_when_full, environment)
        self.starting[kind] = self.starting.get(kind, 0) + 1
        worker = self._make(kind, request, output)
        worker.furnished = furnished
        self._starter.start(request, output.write, partial(self._has_pid, worker, request))

    def adopt(self, request: StartRequest, output: Pipes) -> Callable[[int], None]:
        """Take in an executor that was started ahead; returns what wants to hear its pid."""
        worker = self._make(None, request, output)
        self._blank.append(worker)
        return partial(self._has_pid, worker, request)

    def connected(self, connection: Connection, token: str) -> Worker | None:
        """An executor reports. None if it is none of ours."""
        worker = self._tokens.get(token)
        if worker is not None:
            worker.connection = connection
            connection.keep()
            if worker.kind is not None:
                self._set_up(worker)
        return worker

    def _make(self, kind: Kind | None, request: StartRequest, output: Pipes) -> Worker:
        worker = Worker(kind, request.token)
        with Path(request.progress).open("r+b") as file:
            worker.progress = mmap.mmap(file.fileno(), mmap.PAGESIZE)

        def on_lines(lines: tuple[m.Line, ...]) -> None:
            if worker.kind is None:
                text = "\n".join(line.text for line in lines)
                _log.warning("an executor without work says: %s", text)
            else:
                self._on_lines(worker.kind.job, lines)

        for descriptor, is_error, kept in zip(output.read, (False, True), worker.kept, strict=True):
            worker.outputs.append(
                Output(
                    descriptor,
                    is_error=is_error,
                    kept=kept,
                    on_lines=on_lines,
                    whose=worker.speaker_instead,
                )
            )
        self._tokens[request.token] = worker
        self.all.add(worker)
        return worker

    def _set_up(self, worker: Worker) -> None:
        if worker.kind is None or worker.token not in self._tokens:
            return
        self.starting[worker.kind] -= 1
        worker.ready = True
        setup = self._setup_of(worker.kind)
        if worker.furnished is not NOTHING:
            own = worker.furnished
            setup = msgspec.structs.replace(setup, working_dir=own.working_dir, path=own.path)
        worker.send(setup)
        self.rest(worker, asyncio.get_running_loop().time())
        self._on_ready()

    def _has_pid(self, worker: Worker, request: StartRequest, pid: int) -> None:
        if not pid:
            # Whoever should have started it died.
            worker.reaped = True
            self._ended(worker, Path(request.progress), -signal.SIGKILL)
            return
        worker.pid = pid
        if self._stopping:
            worker.kill()
        for output in worker.outputs:
            output.pid = pid
        self._watch(worker, Path(request.progress))

    def rest(self, worker: Worker, now_s: float) -> None:
        """It has no work: keep it warm."""
        worker.idle_since_s = now_s
        if worker.kind is not None:
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

    async def stop(self) -> None:
        """Kill all executors, and wait until they are gone."""
        self._stopping = True
        for worker in self.all:
            worker.kill()
        self._empty.clear()
        if self.all:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), _DYING_S)
        for task in self._furnishing:
            # It may wait for a store that is away.
            task.cancel()
        left = self._furnishing | self._discarding
        if left:
            await asyncio.wait(left, timeout=_DYING_S)

    def _watch(self, worker: Worker, progress_path: Path) -> None:
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            # What it started may outlive it, and must not. Its own number is still taken: it is
            # reaped only afterwards.
            worker.kill()
            worker.reaped = True
            self._starter.reap(worker.pid, partial(self._ended, worker, progress_path))

        descriptor = platform.exit_descriptor(worker.pid)
        loop.add_reader(descriptor, gone)

    def _ended(self, worker: Worker, progress_path: Path, returncode: int) -> None:
        worker.leaving = True
        if worker.connection is not None:
            # A call that it has ended is not one that it died of.
            worker.connection.hear_out()
        for output in worker.outputs:
            output.drain()
            output.close()
        if worker.has_broken_link():
            worker.kept[1].append((worker.running_ticket(), _BROKEN_LINK))
        progress_path.unlink(missing_ok=True)
        if worker.furnished is not NOTHING:
            self._spawn(self.discard(worker.furnished), self._discarding)
        self.all.discard(worker)
        self._tokens.pop(worker.token, None)
        if worker in self._blank:
            self._blank.remove(worker)
        if worker.kind is not None:
            if not worker.ready:
                self.starting[worker.kind] -= 1
            waiting = self.idle.get(worker.kind, [])
            if worker in waiting:
                waiting.remove(worker)
        self._on_gone(worker, returncode)
        if not self.all:
            self._empty.set()


def _environment(env_vars: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """A task's variables, in which `${NAME}` stands for the agent's NAME."""
    environment = {
        name: _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), value)
        for name, value in env_vars
    }
    if "PYTHONPATH" in environment:
        ours = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] += f"{os.pathsep}{ours}"
    return environment
