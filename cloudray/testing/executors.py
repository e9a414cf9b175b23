"""Simulated executors: they speak the messages of real ones, and run programs in virtual time."""

from __future__ import annotations

import asyncio
import pickle
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from cloudray import ids
from cloudray.agent.connection import Connection
from cloudray.agent.functions import Kind
from cloudray.agent.workers import Worker, Workers
from cloudray.exceptions import RaySystemError
from cloudray.protocol import messages as m
from cloudray.protocol.batching import batch_limit
from cloudray.protocol.buffer import SubmitBuffer
from cloudray.protocol.records import Batch, Parent, Verb
from cloudray.store import envelope
from cloudray.store.layout import QueueName
from cloudray.testing import programs
from cloudray.testing.programs import Program, Value
from cloudray.testing.scheduler import Process
from cloudray.values import codec
from cloudray.values.outcomes import DONE, error_payload, load
from cloudray.values.pickling import PROTOCOL

#: As the real one: outcomes wait so long for company while there are more calls.
_HOLD_S = 0.02
_KILLED = -9
_NOWHERE = Path("/nonexistent/progress")


class Runs:
    """Every run of every task of a world."""

    def __init__(self) -> None:
        self._serial = 0
        #: by task, how often it started
        self.started: dict[str, int] = {}
        #: values that tasks got as arguments or from children: (task, run)
        self.received: list[tuple[str, int]] = []
        self.on_start: Callable[[str, int, str], None] | None = None
        #: by task, how often it has ended its executor
        self.killed: dict[str, int] = {}

    def begin(self, key: str, where: str) -> int:
        """A run starts; returns its number."""
        self._serial += 1
        self.started[key] = self.started.get(key, 0) + 1
        if self.on_start is not None:
            self.on_start(key, self._serial, where)
        return self._serial


class Machine:
    """What an agent's executors share: a process that goes on while the agent is paused."""

    def __init__(
        self, process: Process, runs: Runs, rng: Random, spool: Path, start_s: float
    ) -> None:
        self.process = process
        self.runs = runs
        self.rng = rng
        self.spool = spool
        #: how long an executor takes to start
        self.start_s = start_s
        #: makes the agent's end of a connection, set once there is an agent
        self.connect: Callable[[], Connection]
        self.agent: Process
        self.pids = 0
        self.files = 0


class _Transport(asyncio.Transport):
    """The agent's end of a socket."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        super().__init__()
        self._deliver = deliver
        self._closing = False

    def write(self, data: Any) -> None:
        """Send."""
        if not self._closing:
            self._deliver(data)

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Nothing: executors always listen."""
        return 0

    def close(self) -> None:
        """Hang up."""
        self._closing = True


class _Ordered(dict[Worker, None]):
    """A set that is gone through in the order in which its members came."""

    def add(self, worker: Worker) -> None:
        self[worker] = None

    def discard(self, worker: Worker) -> None:
        self.pop(worker, None)


class SimulatedWorker(Worker):
    """An executor as its agent sees it."""

    executor: SimulatedExecutor

    def kill(self) -> None:
        """End it now."""
        self.executor.die(_KILLED)


class SimulatedWorkers(Workers):
    """Starts simulated executors; all the rest is what the real ones' owner does."""

    def __init__(self, machine: Machine, *args: Any) -> None:
        super().__init__(*args)
        self._machine = machine
        # In a set, objects lie in the order of their addresses, which no seed decides.
        self.all = _Ordered()  # type: ignore[assignment]

    def start(self, kind: Kind) -> None:
        """Start one."""
        if self._stopping:
            return
        self.starting[kind] = self.starting.get(kind, 0) + 1
        machine = self._machine
        machine.pids += 1
        worker = SimulatedWorker(kind, str(machine.pids))
        worker.pid = machine.pids
        worker.progress = bytearray(24)  # type: ignore[assignment]
        self._tokens[worker.token] = worker
        self.all.add(worker)
        ended = partial(self._ended, worker, _NOWHERE)
        worker.executor = SimulatedExecutor(machine, worker, ended)


class _Attempt:
    """One run of one task."""

    def __init__(self, call: m.Call, program: Program, run: int, began_s: float) -> None:
        self.call = call
        self.program = program
        self.run = run
        self.began_s = began_s
        self.sum = program.number
        #: children whose outcomes are yet to come
        self.awaited: dict[bytes, None] = {}
        self.error: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None


class SimulatedExecutor:
    """Runs calls one after the other, as `executor.serve` does."""

    def __init__(
        self, machine: Machine, worker: SimulatedWorker, on_end: Callable[[int], None]
    ) -> None:
        self._machine = machine
        self._worker = worker
        self._on_end = on_end
        self._calls: deque[m.Call | None] = deque()
        self._attempt: _Attempt | None = None
        self._outcomes: list[m.Outcome] = []
        self._sent_s = 0.0
        self._dead = False
        self._setup: m.Setup | None = None
        self._incoming = m.Unpacker()
        self._connection: Connection
        delay_s = machine.start_s * (0.5 + machine.rng.random()) if machine.start_s else 0.0
        machine.process.call_later(delay_s, self._connect)

    def die(self, returncode: int) -> None:
        """End at once; the agent hears of it."""
        if not self._dead:
            self._dead = True
            self._machine.agent.call_soon(self._on_end, returncode)

    # -- the socket ----------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._dead:
            return
        self._connection = self._machine.connect()
        transport = _Transport(lambda data: _soon(self._machine.process, self._receive, data))
        self._connection.connection_made(transport)
        self._send(m.Ready(self._worker.token, self._worker.pid))

    def _send(self, message: m.Message) -> None:
        _soon(self._machine.agent, self._connection.data_received, m.pack(message))

    def _receive(self, data: bytes) -> None:
        for message in self._incoming.feed(data):
            if self._dead:
                return
            self._handle(message)

    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Run):
            self._calls += message.calls
            self._next()
        elif isinstance(message, m.Setup):
            self._setup = message
        elif isinstance(message, m.Recall):
            taken = [call.ticket for call in self._calls if call is not None]
            self._calls = deque(call for call in self._calls if call is None)
            self._send(m.Returned(tuple(taken)))
        elif isinstance(message, m.Interrupt):
            attempt = self._attempt
            if attempt is not None and attempt.call.ticket == message.ticket:
                self._end(attempt, Verb.CANCELLED, b"")
        elif isinstance(message, m.Resolved):
            self._resolved(message)
        elif isinstance(message, m.Leave):
            self._calls.append(None)
            self._next()

    # -- running -------------------------------------------------------------------------------

    def _next(self) -> None:
        while self._attempt is None and self._calls and not self._dead:
            call = self._calls.popleft()
            if call is None:
                self._send_outcomes()
                self.die(0)
                return
            self._begin(call)

    def _begin(self, call: m.Call) -> None:
        machine = self._machine
        program = programs.decode(call.arguments)
        where = f"{machine.agent.name} claim {call.claim} attempt {call.attempt}"
        run = machine.runs.begin(program.key, where)
        attempt = self._attempt = _Attempt(call, program, run, machine.process.time())
        self._worker.progress[:8] = call.ticket.to_bytes(8, "little")  # type: ignore[index]
        for payload in call.values:
            attempt.sum += self._take(load(payload))
        if program.kills > machine.runs.killed.get(program.key, 0):
            machine.runs.killed[program.key] = machine.runs.killed.get(program.key, 0) + 1
            attempt.timer = machine.process.call_later(program.sleep_us / 1e6, self.die, 1)
        elif program.children:
            self._submit(attempt)
        else:
            self._sleep(attempt)

    def _sleep(self, attempt: _Attempt) -> None:
        delay_s = attempt.program.sleep_us / 1e6
        attempt.timer = self._machine.process.call_later(delay_s, self._slept, attempt)

    def _slept(self, attempt: _Attempt) -> None:
        if self._dead or self._attempt is not attempt:
            return
        if attempt.error is not None:
            self._end(attempt, Verb.FAILED, attempt.error)
        elif attempt.program.fails:
            error = RaySystemError(f"{attempt.program.key} fails, as planned")
            self._end(attempt, Verb.FAILED, error_payload(error))
        else:
            value = Value(attempt.sum, attempt.program.key, attempt.run)
            # What `codec.dumps` would come to, in a tenth of the time.
            body = pickle.dumps(value, PROTOCOL)
            if attempt.program.is_large:
                body = self._spool(body)
            self._end(attempt, Verb.DONE, body)

    def _spool(self, body: bytes) -> bytes:
        machine = self._machine
        machine.files += 1
        path = machine.spool / f"{machine.agent.name}-{machine.files}"
        path.write_bytes(envelope.seal(envelope.Kind.OBJECT, body))
        return codec.local(str(path))

    def _end(self, attempt: _Attempt, verb: Verb, payload: bytes) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.awaited:
            self._send(m.Blocked(blocked=False))
        self._attempt = None
        now_s = self._machine.process.time()
        duration_us = int((now_s - attempt.began_s) * 1e6)
        values = () if verb is Verb.CANCELLED else (payload,)
        self._outcomes.append(m.Outcome(attempt.call.ticket, verb, values, duration_us))
        final = not self._calls or attempt.program.max_retries == 0
        if final or now_s - self._sent_s > _HOLD_S:
            self._send_outcomes()
        self._next()

    def _send_outcomes(self) -> None:
        if self._outcomes:
            self._sent_s = self._machine.process.time()
            outcomes, self._outcomes = tuple(self._outcomes), []
            self._send(m.Outcomes(outcomes))

    # -- children ------------------------------------------------------------------------------

    def _take(self, value: Value) -> int:
        self._machine.runs.received.append((value.key, value.run))
        return value.number

    def _submit(self, attempt: _Attempt) -> None:
        call, setup = attempt.call, self._setup
        if setup is None:
            msg = "a call came before its setup"
            raise RuntimeError(msg)
        batch, index = call.place[: ids.BATCH_ID_BYTES], int.from_bytes(call.place[-2:], "big")
        prefix = ids.batch_prefix(setup.days, setup.job.id, ids.new_id())
        buffer = SubmitBuffer(
            prefix,
            self._send_batch,
            lambda _: batch_limit(None, slots=1, commit_s=1.0, submitted=0, agents=1),
            lambda _: None,
            depth=call.depth + 1,
            parent=Parent(batch, index, call.claim, call.attempt),
        )
        for program in attempt.program.children:
            # Each run has children of its own.
            child = msgspec.structs.replace(program, key=f"{program.key}/{attempt.run}")
            prepared = programs.prepare("simulated", child.max_retries)
            where, at = buffer.add(prepared, programs.encode(child), b"", (), ())
            attempt.awaited[ids.object_id(where, at)] = None
        buffer.flush()
        self._send_outcomes()
        self._send(m.Want(tuple(attempt.awaited)))
        self._send(m.Blocked(blocked=True))

    def _send_batch(self, name: QueueName, batch: Batch) -> None:
        self._send(m.Submit(name.klass, name.priority, name.estimated_ms, batch))

    def _resolved(self, message: m.Resolved) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        waited = bool(attempt.awaited)
        for identifier, verb, payload in message.outcomes:
            if identifier not in attempt.awaited:
                continue
            del attempt.awaited[identifier]
            if verb == DONE:
                attempt.sum += self._take(load(payload))
            else:
                attempt.error = payload or error_payload(RaySystemError("a child was cancelled"))
        if waited and not attempt.awaited:
            self._send(m.Blocked(blocked=False))
            self._sleep(attempt)


def _soon(process: Process, callback: Callable[[bytes], None], data: bytes) -> None:
    process.call_soon(callback, data)
