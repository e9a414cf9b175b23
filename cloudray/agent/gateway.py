"""What executors and drivers ask of their agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cloudray import ids
from cloudray.agent import shortage
from cloudray.agent.connection import Connection
from cloudray.agent.discovery import Discovery
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.functions import Functions
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.agent.outcomes import Outcomes
from cloudray.agent.resolver import Resolver
from cloudray.agent.screen import Screen
from cloudray.agent.workers import Worker, Workers
from cloudray.protocol import messages as m
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Entry, Word
from cloudray.protocol.results import Results
from cloudray.store import Ledger, layout
from cloudray.store.base import Adopt, RefusedError, StoreError, StoreFullError
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure

_log = logging.getLogger(__name__)


#: What the store refused to write for an executor is tried again after so many seconds.
_RETRY_S = 0.5
#: Larger entries are not sent along with the hint that they are there.
_MAX_ENTRY_BYTES = 1 << 16


class Driver:
    """A driver that is attached for one job."""

    def __init__(self, connection: Connection, message: m.Attach, log: str) -> None:
        self.connection = connection
        self.job = message.job
        #: None when it does not want to see what tasks print
        self.screen = Screen(connection, message.job, log) if message.want_logs else None


class Gateway:
    """Sorts messages by who sent them."""

    def __init__(
        self,
        io: Io,
        functions: Functions,
        resolver: Resolver,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        holdings: Holdings,
        discovery: Discovery,
        greeting: Callable[[], m.Greeting],
        nodes: Callable[[], Procedure[list[dict[str, Any]]]],
        ledger: Ledger,
        *,
        counting: bool,
    ) -> None:
        self._io = io
        self._functions = functions
        self._resolver = resolver
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._holdings = holdings
        self._discovery = discovery
        self._greeting = greeting
        self._nodes = nodes
        self._ledger = ledger
        #: the driver counts refs, so it is told which ones executors have
        self._counting = counting
        self.workers: Workers
        #: where the output of a job is kept
        self.log_folder: Callable[[bytes], str]
        #: told of batches that executors have submitted
        self.on_submitted: Callable[[QueueName], None] = lambda _: None
        self.drivers: set[Driver] = set()

    # -- connections -------------------------------------------------------------------------

    def connection(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self._message, self._closed)

    def published(self, journal: Journal) -> None:
        """Tell the drivers of a job that a journal has grown, and by what if that is little."""
        job = ids.job_of(journal.batch)
        held = self._holdings.by_batch.get(journal.batch)
        message: m.Published | None = None
        for driver in self.drivers:
            if driver.job == job:
                if message is None:
                    entry = journal.latest
                    if entry is not None and _size_of(entry) > _MAX_ENTRY_BYTES:
                        entry = None
                    # What still runs, though it was cancelled, may use what its batch names.
                    runs = held is not None and held.out > 0
                    complete = self._counting and not runs and journal.is_over
                    message = m.Published(journal.batch, journal.next, entry, complete)
                if message.complete:
                    # Not a mere hint: the batch's bytes are freed on this word alone.
                    driver.connection.send(message)
                else:
                    driver.connection.hint(message)

    def valued(
        self, batch: bytes, contains: tuple[bytes, ...], objects: tuple[tuple[bytes, str], ...] = ()
    ) -> None:
        """Values of a batch that is not over yet contain these refs, or are these objects."""
        if self._counting:
            self._tell(ids.job_of(batch), m.Valued(batch, units_of(contains), objects))

    def left(self, worker: Worker) -> None:
        """An executor has ended."""
        if self._counting and worker.kind is not None:
            self._tell(worker.kind.job, m.Left(worker.token))

    def when_heard(self, worker: Worker, then: Callable[[], None]) -> None:
        """An executor has ended: call `then` when all that it has said is handled."""
        if worker.inbox:
            worker.on_heard = then
        else:
            then()

    def has_driver(self, job: bytes) -> bool:
        """Whether a driver is attached for a job."""
        return any(driver.job == job for driver in self.drivers)

    def unschedulable(self, job: bytes, message: m.Unschedulable) -> None:
        """Nobody can run some tasks of a job."""
        self._tell(job, message)

    def _tell(self, job: bytes, message: m.Message) -> None:
        """Tell the drivers of a job what they must not miss."""
        for driver in self.drivers:
            if driver.job == job:
                driver.connection.send(message)

    def printed(self, job: bytes, lines: tuple[m.Line, ...]) -> None:
        """Pass on what tasks printed."""
        for driver in self.drivers:
            if driver.job == job and driver.screen is not None:
                driver.screen.show(lines)

    def catch_up(self, now_s: float) -> None:
        """Pass on what was held back from drivers that did not keep up."""
        for driver in self.drivers:
            if driver.screen is not None:
                driver.screen.catch_up(now_s)

    def _closed(self, connection: Connection) -> None:
        peer = connection.peer
        if isinstance(peer, Driver):
            self.drivers.discard(peer)

    def _message(self, connection: Connection, message: m.Message) -> None:
        peer = connection.peer
        if isinstance(peer, Worker):
            if self._io.store.inline:
                self._from_executor(peer, message)
            else:
                self._in_turn(peer, message)
        elif isinstance(message, m.Ready):
            self._executor_ready(connection, message)
        elif isinstance(message, m.Attach):
            self._functions.note_days(message.job, message.days)
            driver = Driver(connection, message, self.log_folder(message.job))
            connection.peer = driver
            self.drivers.add(driver)
            connection.send(self._greeting())
        elif isinstance(message, m.Ring):
            self._discovery.heard(message.names)
        elif isinstance(message, m.Ask):
            payload = msgspec.msgpack.encode(self._ledger.as_dict())
            connection.send(m.Answer(message.request, payload))
        elif isinstance(message, m.Look):
            for batch in message.batches:
                self._look_at(batch)
        else:
            _log.warning("hung up on a peer that sent %s", type(message).__name__)
            connection.close()

    def _look_at(self, batch: bytes) -> None:
        if self._holdings.has(batch):
            self._holdings.look_at(batch)
        else:
            self._discovery.look_at(batch)

    def _executor_ready(self, connection: Connection, message: m.Ready) -> None:
        worker = self.workers.connected(connection, message.token)
        if worker is None:
            connection.close()
        connection.peer = worker

    # -- executors ---------------------------------------------------------------------------

    def _in_turn(self, worker: Worker, message: m.Message) -> None:
        """Handle an executor's messages one after the other, though writing takes time.

        What it says next may name what it wrote before: a batch, a value, a function.
        """
        worker.inbox.append(message)
        if len(worker.inbox) == 1:
            self._io.spawn(self._work_off(worker))

    async def _work_off(self, worker: Worker) -> None:
        while worker.inbox:
            message = worker.inbox[0]
            try:
                writing = self._writing(worker, message)
                if writing is not None:
                    await self._io.do(writing)
                    self._written(message)
                else:
                    self._from_executor(worker, message)
            except (StoreFullError, RefusedError) as refusal:
                # It may pass, and what comes next may name what this would write.
                self._io.complain(refusal)
                await asyncio.sleep(_RETRY_S)
                worker.inbox.appendleft(message)
            except (StoreError, RecordError) as error:
                # This may not, and must not keep what comes next from being heard.
                self._io.complain(error)
                self._write_later(worker, message)
            except Exception:  # noqa: BLE001 - logged, and what comes next is heard
                _log.exception("a message of an executor could not be handled")
            finally:
                worker.inbox.popleft()
        if worker.on_heard is not None:
            worker.on_heard()

    def _writing(self, worker: Worker, message: m.Message) -> Procedure[None] | None:
        """What a message asks to be written, if it does."""
        if isinstance(message, m.Submit):
            return shortage.submit(_name_of(message), message.batch)
        if isinstance(message, m.Keep):
            return _adopt(layout.put_object(message.identifier), Path(message.path))
        if isinstance(message, m.Blob):
            kind = worker.kind
            if kind is not None:
                identifier = bytes((kind.days,)) + kind.job
                return self._functions.upload(
                    identifier, kind.job, message.digest, message.pickled, keep=not message.package
                )
        return None

    def _written(self, message: m.Message) -> None:
        if isinstance(message, m.Submit):
            name = _name_of(message)
            self._discovery.offer(name, urgent=True)
            self.on_submitted(name)

    def _from_executor(self, worker: Worker, message: m.Message) -> None:
        if isinstance(message, m.Outcomes):
            self._hear_out(worker)
            self._outcomes.heard(worker, message)
            self._discovery.claim()
        elif isinstance(message, m.Blocked):
            self._dispatcher.blocked(worker, blocked=message.blocked)
        elif isinstance(message, m.Want):
            # What the running call got it may get again, until it ends.
            running = partial(worker.tickets.__contains__, worker.running_ticket())
            for identifier in message.identifiers:
                then = partial(self._resolved, worker, identifier)
                self._resolver.want(identifier, then, running)
        elif isinstance(message, m.Cancel):
            self._cancel(message)
        elif isinstance(message, m.Returned):
            self._dispatcher.returned(worker, message.tickets)
        elif isinstance(message, m.Ask):
            self._io.run(self._nodes(), partial(self._answer, worker, message.request))
        else:
            writing = self._writing(worker, message)
            if self._counting:
                self._count(worker, message)
            if writing is not None:
                self._io.run(
                    writing,
                    lambda _: self._written(message),
                    partial(self._write_later, worker, message),
                )

    def _hear_out(self, worker: Worker) -> None:
        """What an executor printed before a call ended comes before its end."""
        for output in worker.outputs:
            output.drain()
        for driver in self.drivers:
            if driver.screen is not None:
                driver.screen.ended(worker.pid)

    def _write_later(self, worker: Worker, message: m.Message) -> None:
        """The store would not have it, which may pass: a batch that is lost is waited for."""
        asyncio.get_running_loop().call_later(_RETRY_S, self._write_again, worker, message)

    def _write_again(self, worker: Worker, message: m.Message) -> None:
        writing = self._writing(worker, message)
        if writing is not None:
            self._io.run(
                writing,
                lambda _: self._written(message),
                partial(self._write_later, worker, message),
            )

    def _count(self, worker: Worker, message: m.Message) -> None:
        """Tell the driver of a unit, before any other word about it, or of refs to units."""
        if isinstance(message, m.Submit):
            batch = message.batch
            names = {
                name
                for task in batch.tasks
                for name in units_of((*task.depends_on, *task.contains, task.arguments_id))
            }
            names.discard(b"")
            begun = m.Begun(batch.id, worker.token, message.held, tuple(names))
            self._tell(ids.job_of(batch.id), begun)
        elif isinstance(message, m.Keep):
            unit = ids.unit_of(message.identifier)
            # Refs to it are let go by `Handles`, like any others.
            kept = m.Kept(unit, worker.token, held=True, contains=units_of(message.contains))
            self._tell(ids.job_of(unit), kept)
        elif isinstance(message, m.Handles) and worker.kind is not None:
            handled = m.Handled(worker.token, message.taken, message.dropped, message.pinned)
            self._tell(worker.kind.job, handled)

    def _resolved(self, worker: Worker, identifier: bytes, verb: int, payload: bytes) -> None:
        if not worker.resolved:
            asyncio.get_running_loop().call_soon(self._send_resolved, worker)
        worker.resolved.append((identifier, verb, payload))

    def _send_resolved(self, worker: Worker) -> None:
        outcomes, worker.resolved = tuple(worker.resolved), []
        worker.send(m.Resolved(outcomes))

    def _cancel(self, message: m.Cancel) -> None:
        # A fold of its own: the shared ones have procedures at work on them.
        results = Results()

        def cancelled(_: Word) -> None:
            for batch in results.journals:
                self._look_at(batch)

        force, recursive = message.force, message.recursive
        self._io.run(
            results.cancel(message.identifier, force=force, recursive=recursive), cancelled
        )

    def _answer(self, worker: Worker, request: int, nodes: list[dict[str, Any]]) -> None:
        worker.send(m.Answer(request, msgspec.msgpack.encode(nodes)))


def units_of(identifiers: Iterable[bytes]) -> tuple[bytes, ...]:
    """The batches and stored values that these refs lead to."""
    return tuple({ids.unit_of(identifier) for identifier in identifiers})


def _size_of(entry: Entry) -> int:
    return sum(len(value) for word in entry.words for value in word.values)


def _name_of(message: m.Submit) -> QueueName:
    size = len(message.batch.tasks)
    return QueueName(message.klass, message.priority, message.batch.id, size, message.estimated_ms)


def _adopt(key: str, path: Path) -> Procedure[None]:
    yield Adopt(key, path)
