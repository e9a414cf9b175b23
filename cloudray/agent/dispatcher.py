"""From ready tasks to executors, and back: what runs where, and when."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloudray import ids
from cloudray.agent.functions import Kind
from cloudray.agent.held import NOBODY, Death, Held, Status
from cloudray.agent.io import Io
from cloudray.agent.limits import Limits
from cloudray.agent.queues import Line, Queues
from cloudray.agent.resources import Resources
from cloudray.agent.workers import Assigned, Worker, Workers
from cloudray.exceptions import RaySystemError, RuntimeEnvSetupError, WorkerCrashedError
from cloudray.protocol import journal as journals
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.demand import Demand
from cloudray.protocol.failures import Crashed, Overtaken, Start, next_step, timed_out
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Duration, Verb, Word
from cloudray.protocol.sharing import address
from cloudray.store import layout
from cloudray.store.base import Adopt, StoreError
from cloudray.store.procedures import Procedure
from cloudray.values import codec
from cloudray.values.outcomes import error_payload

_log = logging.getLogger(__name__)

#: An executor is sent calls until it has about this much work.
WINDOW_US = 10_000.0
#: ... at most this much in one message, so that its slot-mates get their share.
CHUNK_US = 5_000.0
#: What an unmeasured call is taken to last when backlog is estimated.
UNKNOWN_US = 50_000.0
#: Calls behind one that has run this long are taken back when a slot is free.
RECALL_S = 0.02
#: Executors beyond the number of slots are let go after being idle this long.
IDLE_S = 10.0
#: After so many executors in a row that died before they could say hello, tasks fail.
MAX_FAILED_STARTS = 3


class Dispatcher:
    """Owns the machine's slots.

    `publish(held)` is called when a held batch has something to say; `nonce` makes the part of
    an object's key that no other attempt shares.
    """

    def __init__(
        self,
        io: Io,
        resources: Resources,
        clock: Callable[[], float],
        publish: Callable[[Held], None],
        nonce: Callable[[], str],
        host: str,
    ) -> None:
        self._io = io
        self._resources = resources
        self._clock = clock
        self._publish = publish
        self._nonce = nonce
        self._host = host
        self._queues = Queues()
        self._book = DurationBook()
        self._limits = Limits(clock)
        self._failed_starts: dict[Kind, float] = {}
        self.workers: Workers
        #: nothing starts while this is set: the agent may have lost its leases
        self.fenced = False
        #: whether it is about to be set: a lease has passed, and nobody has looked yet
        self.is_late: Callable[[], bool] = lambda: False
        self.draining = False
        #: removes a file that an executor has spooled
        self.discard: Callable[[Path], None] = lambda _: None
        #: told which tasks of a batch a journal has decided
        self.learned: Callable[[Held, list[int]], None] = Held.note
        #: told of a journal that was complete while calls of its batch still ran
        self.over: Callable[[Journal], None] = lambda _: None
        #: calls that could not be announced; they are tried again at the next look
        self._refused: list[tuple[Worker, int]] = []

    # -- what becomes ready ------------------------------------------------------------------

    def ready(self, held: Held, index: int) -> None:
        """A task could start now."""
        held.status[index] = Status.READY
        held.ready_since_s[index] = self._clock()
        self._queues.add(held.known_of(index).lane, held, index)

    def backlog_s(self, unknown: int = 0) -> float:
        """Roughly how long the ready tasks, and so many unknown ones, will keep the slots busy."""
        total_us = unknown * UNKNOWN_US
        for line in self._queues.in_order():
            sample = next(iter(line), None)
            if sample is not None:
                known = sample[0].known_of(sample[1])
                mean_us = self._book.mean_us(known.shape.function)
                total_us += line.count * (UNKNOWN_US if mean_us is None else mean_us)
        return total_us / 1e6 / self._resources.slots

    def ready_tasks(self) -> int:
        """How many tasks wait for a slot."""
        return len(self._queues)

    def waiting_since(self, before_s: float) -> dict[Held, list[int]]:
        """The tasks that have been ready since before a moment, by batch."""
        found: dict[Held, list[int]] = {}
        for line in self._queues.in_order():
            for held, index in line:
                if held.ready_since_s.get(index, before_s) < before_s:
                    found.setdefault(held, []).append(index)
        return found

    # -- starting ----------------------------------------------------------------------------

    def run(self) -> None:
        """Give slots to whoever can use them."""
        if self.fenced or self.draining:
            return
        for line in self._queues.in_order():
            if self.is_late():
                return
            self._serve(line)

    def _serve(self, line: Line) -> None:
        kind = line.lane.kind
        demand = dict(line.lane.demand)
        while line.count and self._resources.room_for(demand):
            worker = self.workers.idle_one(kind)
            if worker is None:
                break
            self._resources.take(demand)
            worker.demand = demand
            if not self._assign(worker, line):
                self._release(worker)
        if line.count:
            self._queue_up(line, demand)
        if line.has_ready():
            wanted = min(self._resources.room_for(demand), line.count)
            for _ in range(wanted - self.workers.starting.get(kind, 0)):
                self.workers.start(kind)

    def _queue_up(self, line: Line, demand: Demand) -> None:
        """Send short calls ahead to executors that are busy, but not for long."""
        stuck_s = self._clock() - RECALL_S
        for worker in self.workers.all:
            if (
                worker.tickets
                and worker.kind == line.lane.kind
                and worker.demand == demand
                # What was taken back from behind a long call must not go there again.
                and worker.progress_s >= stuck_s
                and not (worker.lent or worker.leaving or worker.recalled)
            ):
                while worker.queued_us < WINDOW_US / 2 and line.count:
                    if not self._assign(worker, line, behind=True):
                        break

    def _assign(self, worker: Worker, line: Line, *, behind: bool = False) -> bool:
        """Send calls from a line to an executor; False if there was nothing for it.

        `behind`: it has calls already, so only ones known to be short may queue up there.
        """
        share = -(-line.count // max(1, self._resources.slots))
        calls: list[m.Call] = []
        chunk_us = 0.0
        while len(calls) < share and chunk_us < CHUNK_US:
            task = line.pop()
            if task is None:
                break
            held, index = task
            known = held.known_of(index)
            mean_us = self._book.mean_us(known.shape.function)
            careful = held.careful(index)
            alone = mean_us is None or mean_us > WINDOW_US or careful
            if alone and (calls or behind):
                line.push_back(held, index)
                break
            assigned = self._begin(worker, held, index, mean_us)
            if assigned is None:
                continue
            chunk_us += assigned.estimated_us
            if careful and held.permitted.get(index) != assigned.attempt:
                self._announce(worker, assigned)
                return True
            calls.append(self._call(worker, assigned))
            if alone:
                break
        if calls:
            worker.send(m.Run(tuple(calls)))
        return bool(calls)

    def _begin(
        self, worker: Worker, held: Held, index: int, mean_us: float | None
    ) -> Assigned | None:
        known = held.known_of(index)
        attempt = held.attempts.get(index, 0)
        # One that was permitted before, and came back without having run, still is.
        if held.permitted.get(index) != attempt and not self._may_start(held, index):
            return None
        held.status[index] = Status.RUNNING
        held.running[index] = self._clock()
        held.ready_since_s.pop(index, None)
        return Assigned(held, index, attempt, known, 1000.0 if mean_us is None else mean_us)

    def _may_start(self, held: Held, index: int) -> bool:
        step = next_step(
            held.journal,
            index,
            claim=held.claim,
            deaths_here=held.deaths.get(index, 0),
            attempt=held.attempts.get(index, 0),
            max_retries=held.known_of(index).shape.max_retries,
            once=held.once,
        )
        if isinstance(step, Overtaken):
            self.let_go(held)
        elif isinstance(step, Crashed):
            self._crashed(held, index, step.attempts)
        return isinstance(step, Start)

    def _announce(self, worker: Worker, assigned: Assigned) -> None:
        """Write STARTED before the call is sent; the create is the permission to run."""
        held, index = assigned.held, assigned.index
        pair = (held.claim, assigned.attempt)
        # The ticket keeps the executor from being taken for idle meanwhile.
        call = self._call(worker, assigned)

        def written(fresh: list[int]) -> None:
            # It may have folded in what another procedure of ours wrote, which then hears nothing.
            self.learned(held, fresh)
            said = held.journal.started.get(index, [])
            permitted = pair in said and (not held.once or said[0] == pair)
            if permitted and index not in held.journal.decided and not held.dropped:
                held.permitted[index] = assigned.attempt
                worker.send(m.Run((call,)))
                return
            worker.release(call.ticket)
            self._consider_over(held)
            if index not in held.journal.decided and not held.dropped:
                # Only a task with `max_retries=0` can find that another's STARTED came first.
                self._may_start(held, index)
            self._publish(held)
            self._rested(worker)
            if not self._io.store.inline:
                # Whoever asked for this has long gone on, and the executor is free.
                self.run()

        words = [Word(index, Verb.STARTED, attempt=assigned.attempt)]
        self._io.run(
            journals.append(held.journal, words, claim=held.claim),
            written,
            lambda: self._refused.append((worker, call.ticket)),
        )

    def _call(self, worker: Worker, assigned: Assigned) -> m.Call:
        held, index = assigned.held, assigned.index
        number = self.workers.teach(worker, assigned.known)
        ticket = self.workers.next_ticket()
        if not worker.tickets:
            worker.progress_s = self._clock()
        worker.tickets[ticket] = assigned
        held.out += 1
        worker.queued_us += assigned.estimated_us
        if assigned.known.shape.timeout_s:
            self._limits.watch(worker, ticket, assigned)
        return m.Call(
            ticket,
            number,
            address(held.batch.id, index),
            held.claim,
            assigned.attempt,
            held.batch.depth,
            held.arguments_of(index),
            tuple(held.values.get(index, ())),
        )

    # -- ending ------------------------------------------------------------------------------

    def outcomes(self, worker: Worker, message: m.Outcomes) -> None:
        """Calls have ended."""
        worker.progress_s = self._clock()
        worker.leaving = worker.leaving or message.leaving
        # In the order in which they came, so that a run can be repeated.
        touched: dict[Held, None] = {}
        for outcome in message.outcomes:
            assigned = worker.release(outcome.ticket)
            if assigned is None:
                continue
            held, index = assigned.held, assigned.index
            function = assigned.known.shape.function
            held.measure(function, 1, outcome.duration_us)
            self._book.note(Duration(function, 1, outcome.duration_us))
            if held.dropped or held.status[index] is not Status.RUNNING:
                self._discard(outcome.values)
                self._consider_over(held)
                continue
            if assigned.expired and _is_late(outcome, assigned):
                self._discard(outcome.values)
                self._timed_out(held, index, assigned)
                continue
            if outcome.verb == Verb.CANCELLED or (
                outcome.retryable and self._may_retry(held, index, assigned)
            ):
                # An interrupt that hit a call nobody cancelled counts as one that did not run.
                self._discard(outcome.values)
                self._again(held, index, assigned)
                continue
            failed_late = assigned.expired and outcome.verb == Verb.FAILED
            # What an attempt has submitted that ran out of time goes with it.
            attempt = NOBODY if failed_late else assigned.attempt
            word = Word(index, Verb(outcome.verb), outcome.values, attempt, outcome.contains)
            if outcome.contains:
                # Before anything that this executor lets go of next: it may be one of these.
                self.valued(held.batch.id, outcome.contains, ())
            if any(codec.local_path(value) for value in outcome.values):
                self._io.run(
                    place(word, held.batch.id, self._nonce()),
                    partial(self._placed, held),
                    partial(self._not_placed, held, word),
                )
            else:
                held.say(word)
                touched[held] = None
        self._rested(worker)
        for held in touched:
            self._publish(held)
        self.run()

    def _placed(self, held: Held, word: Word) -> None:
        batch = held.batch.id
        objects = tuple(
            (ids.object_id(batch, word.index, number), key)
            for number, value in enumerate(word.values)
            if (key := codec.stored_key(value)) is not None
        )
        if objects:
            self.valued(batch, (), objects)
        held.say(word)
        self._publish(held)

    def _discard(self, values: tuple[bytes, ...]) -> None:
        """Nobody will ask for these: remove the files of those that were spooled."""
        for value in values:
            path = codec.local_path(value)
            if path is not None:
                self.discard(Path(path))

    def _consider_over(self, held: Held) -> None:
        """Say that a batch is over, if it was for all but the call that has come back just now."""
        if held.dropped and not held.out and held.journal.complete:
            self.over(held.journal)

    def _not_placed(self, held: Held, word: Word) -> None:
        self._discard(word.values)
        error = RaySystemError("its value could not be stored; the agent's log says why")
        self._placed(held, Word(word.index, Verb.FAILED, (error_payload(error),), word.attempt))

    def _again(self, held: Held, index: int, assigned: Assigned) -> None:
        held.attempts[index] = assigned.attempt + 1
        held.running.pop(index, None)
        self.ready(held, index)

    def _timed_out(
        self, held: Held, index: int, assigned: Assigned, *, killed: bool = False
    ) -> None:
        """An attempt took longer than its task allows, and did not say so itself."""
        shape = assigned.known.shape
        if shape.retry_timeouts and self._may_retry(held, index, assigned):
            self._again(held, index, assigned)
            return
        place = address(held.batch.id, index)
        error = timed_out(shape, place, assigned.attempt, killed=killed)
        held.say(Word(index, Verb.FAILED, (error_payload(error),), NOBODY))
        self._publish(held)

    def _may_retry(self, held: Held, index: int, assigned: Assigned) -> bool:
        limit = assigned.known.shape.max_retries
        return limit < 0 or held.attempts.get(index, 0) < limit

    def returned(self, worker: Worker, tickets: tuple[int, ...]) -> None:
        """Calls that an executor had not started come back."""
        worker.recalled = False
        self._requeue(worker, tickets)
        self._rested(worker)
        self.run()

    def _requeue(self, worker: Worker, tickets: tuple[int, ...]) -> None:
        for ticket in tickets:
            assigned = worker.release(ticket)
            if assigned is None:
                continue
            held, index = assigned.held, assigned.index
            if not held.dropped and held.status[index] is Status.RUNNING:
                held.running.pop(index, None)
                self.ready(held, index)
            self._consider_over(held)

    def blocked(self, worker: Worker, *, blocked: bool) -> None:
        """The running call waits for a value, or goes on: lend its slot, or take it back."""
        if worker.demand is None or worker.lent == blocked:
            return
        worker.lent = blocked
        if blocked:
            self._resources.give(worker.demand)
            if len(worker.tickets) > 1:
                self._recall(worker)
            self.run()
        else:
            self._resources.take_anyway(worker.demand)

    def gone(self, worker: Worker, returncode: int) -> None:
        """An executor has ended: what it was running may be its fault, the rest is not."""
        culprit = worker.running_ticket()
        tickets = tuple(worker.tickets)
        assigned = worker.tickets.get(culprit)
        if assigned is not None and not assigned.held.dropped:
            held, index = assigned.held, assigned.index
            if held.status[index] is Status.RUNNING and assigned.expired:
                self._timed_out(held, index, assigned, killed=True)
            elif held.status[index] is Status.RUNNING:
                held.deaths[index] = held.deaths.get(index, 0) + 1
                held.attempts[index] = assigned.attempt + 1
                lines = tuple(text for ticket, text in worker.last_lines if ticket == culprit)
                held.last_death[index] = Death(worker.pid, returncode, lines)
        if worker.kind is not None:
            if worker.connection is None:
                self._failed_start(worker.kind, worker, returncode)
            else:
                self._failed_starts.pop(worker.kind, None)
        if assigned is not None:
            for ticket in tickets[: tickets.index(culprit)]:
                # It may have run before, and what came of it went with the executor.
                before = worker.tickets[ticket]
                before.held.permitted.pop(before.index, None)
        self._requeue(worker, tickets)
        if assigned is not None and assigned.held.status[assigned.index] is Status.READY:
            # If that was its last attempt it is over now, not when an executor would be free.
            self._may_start(assigned.held, assigned.index)
        self._release(worker)
        self.run()

    def _failed_start(self, kind: Kind, worker: Worker, returncode: int) -> None:
        if self.draining:
            return
        # One that was killed says little about the environment: machines run out of memory.
        weight = 1.0 if returncode >= 0 else 0.1
        failed = self._failed_starts.get(kind, 0.0) + weight
        self._failed_starts[kind] = failed
        printed = "\n".join(text for _, text in worker.last_lines)
        _log.warning("an executor ended before it was ready (%d): %s", returncode, printed)
        if failed < MAX_FAILED_STARTS:
            return
        self._failed_starts.pop(kind, None)
        error = RuntimeEnvSetupError(
            "several executors in a row ended before they could run anything, the last with "
            f"{returncode}; it printed:\n{printed}"
        )
        self.unfit(kind, error)

    def unfit(self, kind: Kind, error: RuntimeEnvSetupError) -> None:
        """Executors of a kind cannot start here: what waits for one fails, and is told why."""
        for line in self._queues.in_order():
            if line.lane.kind != kind:
                continue
            while (task := line.pop()) is not None:
                held, index = task
                held.say(Word(index, Verb.FAILED, (error_payload(error),), NOBODY))
                self._publish(held)

    def _crashed(self, held: Held, index: int, attempts: int) -> None:
        # The error says where the log is: what it printed last should be there by then.
        self.flush_logs()
        shape = held.known_of(index).shape
        death = held.last_death.get(index)
        error = WorkerCrashedError(
            task_name=shape.name,
            task_id=address(held.batch.id, index).hex(),
            attempt=attempts,
            max_attempts=shape.max_retries + 1 if shape.max_retries >= 0 else -1,
            pid=None if death is None else death.pid,
            exit_code=None if death is None else death.returncode,
            ip=self._host,
            last_lines=() if death is None else death.last_lines,
            log=self.log_of(held),
        )
        held.say(Word(index, Verb.FAILED, (error_payload(error),), NOBODY))
        self._publish(held)

    def log_of(self, held: Held) -> str:
        """Where the output of a job's executors on this machine is kept."""
        return self.log_folder(held.job)

    log_folder: Callable[[bytes], str]
    #: store what has been printed so far
    flush_logs: Callable[[], None]
    #: another agent holds this batch now
    let_go: Callable[[Held], None]
    #: values of a batch contain refs, or are objects: (id, key)
    valued: Callable[[bytes, tuple[bytes, ...], tuple[tuple[bytes, str], ...]], None]

    # -- taking back -------------------------------------------------------------------------

    def interrupt(self, held: Held, indexes: set[int], *, force: set[int]) -> None:
        """Somebody else's word decided these running tasks: stop them."""
        for worker in self.workers.all:
            for ticket, assigned in list(worker.tickets.items()):
                if assigned.held is not held or assigned.index not in indexes:
                    continue
                if assigned.index in force:
                    worker.kill()
                else:
                    if worker.running_ticket() != ticket:
                        self._recall(worker)
                    # It may begin before the recall arrives; if not, this means nothing to it.
                    worker.send(m.Interrupt(ticket))

    @property
    def busy(self) -> bool:
        """Whether calls are queued up behind others."""
        return any(len(worker.tickets) > 1 for worker in self.workers.all)

    def look(self) -> None:
        """Now and then: free calls stuck behind a long one; let idle executors go."""
        now_s = self._clock()
        for worker in self.workers.all:
            stuck = len(worker.tickets) > 1 and now_s - worker.progress_s > RECALL_S
            if stuck and worker.demand and self._resources.room_for(worker.demand):
                self._recall(worker)
        if self._refused:
            refused, self._refused = self._refused, []
            for worker, ticket in refused:
                self._requeue(worker, (ticket,))
                self._rested(worker)
            self.run()
        self.workers.trim(self._resources.slots, now_s, IDLE_S)

    def _recall(self, worker: Worker) -> None:
        if not worker.recalled:
            worker.recalled = True
            worker.send(m.Recall())

    def _rested(self, worker: Worker) -> None:
        if not worker.tickets:
            self._release(worker)

    def _release(self, worker: Worker) -> None:
        """It has nothing to do: its slot is free, and it is warm."""
        if worker.demand is None:
            return
        if not worker.lent:
            self._resources.give(worker.demand)
        worker.demand = None
        worker.lent = False
        worker.queued_us = 0.0
        if worker in self.workers.all and worker.available:
            self.workers.rest(worker, self._clock())


def _is_late(outcome: m.Outcome, assigned: Assigned) -> bool:
    """Whether an attempt whose time was over ended without heeding that.

    One that fails says itself that this was the reason, unless it was so quick after all that
    nobody told it.
    """
    if outcome.verb == Verb.DONE:
        return outcome.duration_us > assigned.known.shape.timeout_s * 1e6
    return outcome.verb == Verb.CANCELLED


def place(word: Word, batch: bytes, nonce: str) -> Procedure[Word]:
    """Make objects of the values that an executor spooled; returns the word that names them."""
    values = []
    for number, value in enumerate(word.values):
        path = codec.local_path(value)
        if path is None:
            values.append(value)
            continue
        spooled = Path(path)
        try:
            size_bytes = spooled.stat().st_size
        except OSError as error:
            raise StoreError(f"the value at {spooled} cannot be read: {error}") from error
        key = layout.result_object(ids.object_id(batch, word.index, number), nonce)
        yield Adopt(key, spooled)
        values.append(codec.stored(key, size_bytes))
    return Word(word.index, word.verb, tuple(values), word.attempt, word.contains)
