"""From ready tasks to executors: what runs where, and when."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudray.agent.functions import Kind
from cloudray.agent.held import NOBODY, Held, Status
from cloudray.agent.io import Io
from cloudray.agent.limits import Limits
from cloudray.agent.queues import Line, Queues
from cloudray.agent.resources import Resources
from cloudray.agent.workers import Assigned, Worker, Workers
from cloudray.exceptions import RuntimeEnvSetupError, WorkerCrashedError
from cloudray.protocol import journal as journals
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.demand import Demand
from cloudray.protocol.failures import Crashed, Overtaken, Start, next_step
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Duration, Verb, Word
from cloudray.protocol.sharing import address
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


class Dispatcher:
    """Owns the machine's slots.

    `publish(held)` is called when a held batch has something to say. What comes of calls is the
    business of `Outcomes`.
    """

    def __init__(
        self,
        io: Io,
        resources: Resources,
        clock: Callable[[], float],
        publish: Callable[[Held], None],
        host: str,
    ) -> None:
        self._io = io
        self._resources = resources
        self._clock = clock
        self._publish = publish
        self._host = host
        self._queues = Queues()
        self._book = DurationBook()
        self._limits = Limits(clock)
        self.workers: Workers
        #: nothing starts while this is set: the agent may have lost its leases
        self.fenced = False
        #: whether it is about to be set: a lease has passed, and nobody has looked yet
        self.is_late: Callable[[], bool] = lambda: False
        self.draining = False
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
                self.release(worker)
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
            if careful and not held.is_permitted(index):
                self._announce(worker, assigned)
                return True
            if careful:
                held.sent.add(index)
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
        if not held.is_permitted(index) and not self.may_start(held, index):
            return None
        held.status[index] = Status.RUNNING
        held.running[index] = self._clock()
        held.ready_since_s.pop(index, None)
        return Assigned(held, index, attempt, known, 1000.0 if mean_us is None else mean_us)

    def may_start(self, held: Held, index: int) -> bool:
        """Whether a task may start now; if its attempts are used up, that is said."""
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
        # Only a task that may run again comes here once more: see `_begin`.
        held.sent.discard(index)
        # The ticket keeps the executor from being taken for idle meanwhile.
        call = self._call(worker, assigned)

        def written(fresh: list[int]) -> None:
            # It may have folded in what another procedure of ours wrote, which then hears nothing.
            self.learned(held, fresh)
            finished = index in held.journal.decided or held.dropped
            # If the executor has ended meanwhile, the task waits for another, or one has it.
            is_its_own = call.ticket in worker.tickets
            if is_its_own and held.is_permitted(index) and not finished:
                held.sent.add(index)
                worker.send(m.Run((call,)))
                return
            worker.release(call.ticket)
            self.consider_over(held)
            if is_its_own and not finished:
                # Only a task with `max_retries=0` can find that another's STARTED came first.
                self.may_start(held, index)
            self._publish(held)
            self.rested(worker)
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

    # -- coming back -------------------------------------------------------------------------

    def note(self, duration: Duration) -> None:
        """Take in how long a call took."""
        self._book.note(duration)

    def consider_over(self, held: Held) -> None:
        """Say that a batch is over, if it was for all but the call that has come back just now."""
        if held.dropped and not held.out and held.journal.complete:
            self.over(held.journal)

    def returned(self, worker: Worker, tickets: tuple[int, ...]) -> None:
        """Calls that an executor had not started come back."""
        worker.recalled = False
        self.requeue(worker, tickets)
        self.rested(worker)
        self.run()

    def requeue(
        self, worker: Worker, tickets: tuple[int, ...], may_have_run: tuple[int, ...] = ()
    ) -> None:
        """Let calls start again, here or elsewhere.

        Why one that may run once does so only if it never ran: its executor has said so, or has
        ended at an earlier call (it runs them in order, and all it said was heard first), or was
        never sent it. In all other cases it stays in `sent`, and is found to have crashed.
        """
        for ticket in tickets:
            assigned = worker.release(ticket)
            if assigned is None:
                continue
            held, index = assigned.held, assigned.index
            if ticket not in may_have_run:
                held.sent.discard(index)
            if not held.dropped and held.status[index] is Status.RUNNING:
                held.running.pop(index, None)
                self.ready(held, index)
            self.consider_over(held)

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
                self.requeue(worker, (ticket,))
                self.rested(worker)
            self.run()
        self.workers.trim(self._resources.slots, now_s, IDLE_S)

    def _recall(self, worker: Worker) -> None:
        if not worker.recalled:
            worker.recalled = True
            worker.send(m.Recall())

    def rested(self, worker: Worker) -> None:
        """Calls came back: it may have no more."""
        if not worker.tickets:
            self.release(worker)

    def release(self, worker: Worker) -> None:
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
