"""An agent on a bench: a real one, but its store is in memory and its executors are played."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cloudray import ids
from cloudray.agent.core import Agent
from cloudray.agent.functions import Functions, Known
from cloudray.agent.held import Held
from cloudray.agent.io import Io
from cloudray.agent.workers import Worker
from cloudray.executor.zygote import StartRequest
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.claims import Won
from cloudray.protocol.demand import class_of, to_units
from cloudray.protocol.journal import Journal, catch_up
from cloudray.protocol.messages import Message, Unpacker, pack
from cloudray.protocol.records import (
    Batch,
    Claim,
    Cluster,
    Duration,
    Entry,
    Heartbeat,
    Job,
    Parent,
    Shape,
    Task,
    Verb,
    Word,
    seal,
)
from cloudray.store import (
    Adopt,
    Counting,
    Create,
    Ledger,
    MemoryStore,
    Op,
    Put,
    Reliable,
    Store,
    StoreError,
    drive,
    envelope,
    layout,
)
from cloudray.store.layout import QueueName
from cloudray.values import codec
from tests.unit.protocol.builders import PREFIX, entries_of

JOB = Job(ids.job_of(PREFIX + bytes(4)), "3.11.7", "host", 42, 1.5, (), "/", "space")
SETTINGS = Cluster(heartbeat_s=0.5, lease_s=2.0, commit_s=0.1, scan_s=1.0)
VALUE = codec.dumps("value").to_bytes()
ERROR = codec.dumps(ValueError("no")).to_bytes()
#: Above what a kernel hands out, should one of them ever reach it.
_FIRST_PID = 1 << 30


class Remote(MemoryStore):
    """A store that makes the event loop wait for every answer, as one far away does."""

    inline = False

    async def perform_async(self, op: Op) -> Any:
        await asyncio.sleep(0.01)
        return self.perform(op)


class Refusing(MemoryStore):
    """A store that refuses to write some keys, as one does whose disk is full."""

    def __init__(self) -> None:
        super().__init__()
        #: what a key contains that cannot be written
        self.refused = ""

    def perform(self, op: Op) -> Any:
        key = getattr(op, "key", "")
        if self.refused and self.refused in key and isinstance(op, (Create, Put, Adopt)):
            raise StoreError(f"{type(op).__name__} of {key}: no space left on device")
        return super().perform(op)


class Wire(asyncio.Transport):
    """One end of a connection: what was sent through it, as messages."""

    def __init__(self, carrier: socket.socket | None = None) -> None:
        super().__init__({"socket": carrier})
        self.messages: list[Message] = []
        self.unread_bytes = 0
        self.closed = False
        self._unpacker = Unpacker()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.messages += self._unpacker.feed(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Executor:
    """An executor as its agent sees it: it says what the test wants it to say."""

    def __init__(self, worker: Worker, pid: int, output: tuple[int, int]) -> None:
        self.worker = worker
        self.pid = pid
        carrier, self._socket = socket.socketpair()
        self.wire = Wire(carrier)
        self._carrier = carrier
        self._protocol: asyncio.Protocol
        self._output = output
        self._exit_read, self._exit_write = os.pipe()
        self.status = 0
        self._ended: set[int] = set()

    # -- what it hears -------------------------------------------------------------------

    @property
    def heard(self) -> list[Message]:
        """All messages it was sent so far."""
        return self.wire.messages

    def of(self, kind: type[Any]) -> list[Any]:
        """The messages of a kind that it was sent so far."""
        return [message for message in self.wire.messages if isinstance(message, kind)]

    @property
    def calls(self) -> list[m.Call]:
        """All calls it was sent so far."""
        return [call for run in self.of(m.Run) for call in run.calls]

    @property
    def queue(self) -> list[m.Call]:
        """The calls that it has neither ended nor returned."""
        return [call for call in self.calls if call.ticket not in self._ended]

    @property
    def places(self) -> list[int]:
        """The indexes of all calls that it was sent so far."""
        return [index_of(call) for call in self.calls]

    # -- what it says --------------------------------------------------------------------

    def connect(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self.wire)
        self.say(m.Ready(self.worker.token, self.pid))

    def say(self, message: Message) -> None:
        if isinstance(message, m.Returned):
            self._ended.update(message.tickets)
        self._protocol.data_received(pack(message))

    def say_last(self, message: Message) -> None:
        """Say something that the loop does not read before it notices that it has ended."""
        self.send_last(pack(message))

    def send_last(self, data: bytes) -> None:
        """The same with bytes that need be no message."""
        self._socket.sendall(data)

    def begin(self, call: m.Call) -> None:
        """Show a call as the one that runs."""
        assert self.worker.progress is not None
        now_s = asyncio.get_running_loop().time()
        self.worker.progress[8:16] = int(now_s * 1e9).to_bytes(8, "little")
        self.worker.progress[:8] = call.ticket.to_bytes(8, "little")

    def end(
        self,
        *calls: m.Call,
        verb: Verb = Verb.DONE,
        values: tuple[bytes, ...] | None = None,
        duration_us: int = 1000,
        retryable: bool = False,
        leaving: bool = False,
    ) -> None:
        """Say how calls ended."""
        if values is None:
            values = {Verb.DONE: (VALUE,), Verb.FAILED: (ERROR,)}.get(verb, ())
        for call in calls:
            self.begin(call)
            self._ended.add(call.ticket)
        outcomes = tuple(
            m.Outcome(call.ticket, verb, values, duration_us, (), retryable) for call in calls
        )
        self.say(m.Outcomes(outcomes, leaving))

    def print(self, text: bytes, *, is_error: bool = False) -> None:
        os.write(self._output[is_error], text)

    def die(self, status: int = -9) -> None:
        """End; its agent notices at the loop's next turn."""
        if self._exit_write >= 0:
            self.status = status
            os.close(self._exit_write)
            self._exit_write = -1

    def exit_descriptor(self) -> int:
        return os.dup(self._exit_read)

    def close(self) -> None:
        self.die()
        for descriptor in (self._exit_read, *self._output):
            os.close(descriptor)
        self._carrier.close()
        self._socket.close()


class Stage:
    """A `Starter`: the executors that it starts are played by the test."""

    def __init__(self) -> None:
        self.executors: list[Executor] = []
        self.requests: list[StartRequest] = []
        self.worker_of: Callable[[str], Worker]
        self.protocol: Callable[[], asyncio.Protocol]
        #: whether executors report as soon as they are started
        self.prompt = True

    def start(
        self, request: StartRequest, output: tuple[int, int], on_pid: Callable[[int], None]
    ) -> None:
        self.requests.append(request)
        pid = _FIRST_PID + len(self.requests)
        executor = Executor(self.worker_of(request.token), pid, output)
        self.executors.append(executor)
        on_pid(pid)
        if self.prompt:
            asyncio.get_running_loop().call_soon(self.report, executor)

    def report(self, executor: Executor) -> None:
        executor.connect(self.protocol())

    def reap(self, pid: int, on_status: Callable[[int], None]) -> None:
        on_status(self.by_pid(pid).status)

    def by_pid(self, pid: int) -> Executor:
        (found,) = [executor for executor in self.executors if executor.pid == pid]
        return found

    def killpg(self, pid: int, _signal: int) -> None:
        """Stand in for `os.killpg`."""
        self.by_pid(pid).die()

    def exit_descriptor(self, pid: int) -> int:
        """Stand in for `platform.exit_descriptor`."""
        return self.by_pid(pid).exit_descriptor()


class Bench:
    """The agent with all its parts, and what tests do to them. Its clocks do not run."""

    def __init__(
        self,
        raw: Store,
        spool: Path,
        loop: asyncio.AbstractEventLoop,
        cpus: float = 2.0,
        settings: Cluster = SETTINGS,
    ) -> None:
        self.ledger = Ledger()
        self.store = Reliable(Counting(raw, self.ledger))
        self.clock = loop.time
        self.stage = Stage()
        self.agent = Agent(
            self.store,
            settings,
            {"CPU": to_units(cpus), "memory": to_units(1 << 34)},
            "/run/agent.sock",
            spool,
            self.ledger,
            self.stage,
            clock=loop.time,
            rng=random.Random(1),
        )
        self.discovery = self.agent._discovery
        self.dispatcher = self.agent._dispatcher
        self.holdings = self.agent._holdings
        self.charity = self.agent._charity
        self.resolver = self.agent._resolver
        self.resources = self.agent._resources
        self.functions = self.agent._functions
        self.workers = self.agent.workers
        self.stage.worker_of = self.workers._tokens.__getitem__
        self.stage.protocol = self.agent.connection_factory
        self._claims = 0

    def close(self) -> None:
        """Release the descriptors that are still open."""
        for worker in self.workers.all:
            for output in worker.outputs:
                with contextlib.suppress(OSError):
                    os.close(output._descriptor)
            if worker.connection is not None:
                worker.connection.close()
        for executor in self.executors:
            executor.close()

    @property
    def executors(self) -> list[Executor]:
        """All executors that were ever started, in order."""
        return self.stage.executors

    # -- the queue -----------------------------------------------------------------------

    def publish(self, batch: Batch) -> QueueName:
        """Put a batch into the queue, with its job and functions."""
        store_job(self.store, batch)
        name = name_of(batch)
        drive(self.store, claims.submit(name, batch))
        return name

    def claim(self, name: QueueName, number: int, agent: str) -> None:
        """Let an agent hold a batch."""
        self.store.put(layout.claim_of(name.stem, number), seal(Claim(agent)))

    async def hold(self, batch: Batch, claim: int = 1) -> Held:
        """Let this agent hold a batch under a claim of this number, with its tasks on the way."""
        name = self.publish(batch)
        for number in range(1, claim):
            self.claim(name, number, "dead")
        self.discovery.offer(name, claim)
        await self.settle()
        return self.holdings.by_batch[batch.id]

    def keys(self, prefix: str) -> list[str]:
        """What is stored under a prefix."""
        return [entry.key for entry in self.store.list(prefix)]

    def journal(self, batch: Batch) -> Journal:
        """What everybody can read about a batch now."""
        journal = Journal(batch.id, len(batch.tasks))
        drive(self.store, catch_up(journal))
        return journal

    def words(self, batch: Batch) -> list[tuple[int, Verb]]:
        """All that is said in a batch's journal, in order."""
        return [(word.index, word.verb) for word in self.said(batch)]

    def said(self, batch: Batch) -> list[Word]:
        """All words in a batch's journal, in order."""
        return [word for entry in entries_of(self.store, batch.id) for word in entry.words]

    def write(self, batch: Batch, *words: Word, claim: int = 0) -> None:
        """Write an entry into a batch's journal, as somebody else."""
        journal = self.journal(batch)
        self.store.put(f"{layout.journal(batch.id)}{journal.next}", seal(Entry(claim, words)))

    def beat(self, agent: str, beat: int, *, idle: bool = True, draining: bool = False) -> None:
        """Let another agent give a sign of life."""
        heartbeat = Heartbeat(agent, beat, "host", 1, "", {}, {}, draining, idle)
        self.store.put(layout.agent(agent), seal(heartbeat))

    # -- time ----------------------------------------------------------------------------

    async def settle(self) -> None:
        """Let everything happen that needs no time, or only the store's."""
        for _ in range(3 if self.store.inline else 40):
            await asyncio.sleep(0 if self.store.inline else 0.005)

    def measure(self, mean_us: float, name: str = "f") -> None:
        """Let the agent know how long a function takes."""
        self.dispatcher._book.note(Duration(digest_of(name), 1, int(mean_us)))


def digest_of(name: str) -> str:
    return name.encode().hex().rjust(64, "0")


def shape_of(
    name: str = "f",
    *,
    cpus: float = 1.0,
    max_retries: int = 3,
    env_vars: dict[str, str] | None = None,
    num_returns: int = 1,
    timeout_s: float = 0.0,
    retry_timeouts: bool = False,
) -> Shape:
    return Shape(
        digest_of(name),
        name,
        num_returns,
        {"CPU": to_units(cpus)} if cpus else {},
        max_retries,
        env_vars=env_vars or {},
        timeout_s=timeout_s,
        retry_timeouts=retry_timeouts,
    )


def batch_of(
    size: int = 1,
    shape: Shape | None = None,
    *,
    number: int = 0,
    depth: int = 0,
    parent: Parent | None = None,
    tasks: Sequence[Task] = (),
) -> Batch:
    """Tasks of one function, all alike unless `tasks` says otherwise."""
    tasks = tuple(tasks) or tuple(Task(0, b"%d" % index) for index in range(size))
    batch = ids.batch_id(PREFIX, number)
    return Batch(batch, (shape or shape_of(),), tuple(tasks), depth, parent)


def name_of(batch: Batch, klass: str | None = None) -> QueueName:
    klass = klass or class_of(batch.shapes[0].demand)
    return QueueName(klass, 5, batch.id, len(batch.tasks), 0)


def ref(batch: Batch, index: int = 0, number: int = 0) -> bytes:
    """The id of a task's result."""
    return ids.object_id(batch.id, index, number)


def index_of(call: m.Call) -> int:
    return int.from_bytes(call.place[ids.BATCH_ID_BYTES :], "big")


def store_job(store: Store, batch: Batch) -> None:
    """Store what a batch needs beside its entry: its job's record, and its functions."""
    store.put(layout.meta(batch.id), seal(JOB))
    for shape in batch.shapes:
        blob = envelope.seal(envelope.Kind.BLOB, shape.name.encode())
        store.put(layout.blob(batch.id, shape.function), blob)


def knowns_of(batch: Batch) -> list[Known]:
    """The functions of a batch, read from a store that has them."""
    store = MemoryStore()
    store_job(store, batch)
    return drive(store, Functions(Io(store)).read(batch, JOB.id))


def held_of(batch: Batch, *, claim: int = 1, now_s: float = 0.0) -> Held:
    """A batch that somebody has just claimed."""
    journal = Journal(batch.id, len(batch.tasks), once=batch.once)
    return Held(name_of(batch), Won(batch, journal, claim), knowns_of(batch), JOB.id, now_s)


async def warm_up(bench: Bench, count: int = 1, *, name: str = "f") -> list[Executor]:
    """Executors that have run something already and wait for more."""
    batch = batch_of(count, shape_of(name), number=1000 + len(bench.executors))
    await bench.hold(batch)
    for executor in bench.executors[-count:]:
        executor.end(*executor.calls)
    await bench.settle()
    return bench.executors[-count:]
