"""What becomes of calls: they end, fail and are tried again, or their executors do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloudray import ids
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.functions import Kind
from cloudray.agent.held import NOBODY, Death, Held, Status
from cloudray.agent.io import Io
from cloudray.agent.workers import Assigned, Worker
from cloudray.exceptions import RaySystemError, RuntimeEnvSetupError
from cloudray.protocol import messages as m
from cloudray.protocol.failures import timed_out
from cloudray.protocol.records import Duration, Verb, Word
from cloudray.protocol.sharing import address
from cloudray.store import layout
from cloudray.store.base import Adopt, StoreError
from cloudray.store.procedures import Procedure
from cloudray.values import codec
from cloudray.values.outcomes import error_payload

_log = logging.getLogger(__name__)

#: After so many executors in a row that died before they could say hello, tasks fail.
MAX_FAILED_STARTS = 3


class Outcomes:
    """Hears how calls ended, and gives the slots back.

    `publish(held)` is called when a held batch has something to say; `nonce` makes the part of
    an object's key that no other attempt shares.
    """

    def __init__(
        self,
        io: Io,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        publish: Callable[[Held], None],
        nonce: Callable[[], str],
    ) -> None:
        self._io = io
        self._dispatcher = dispatcher
        self._clock = clock
        self._publish = publish
        self._nonce = nonce
        self._failed_starts: dict[Kind, float] = {}
        #: removes a file that an executor has spooled
        self.discard: Callable[[Path], None] = lambda _: None

    def heard(self, worker: Worker, message: m.Outcomes) -> None:
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
            self._dispatcher.note(Duration(function, 1, outcome.duration_us))
            if held.dropped or held.status[index] is not Status.RUNNING:
                self._discard(outcome.values)
                self._dispatcher.consider_over(held)
                continue
            if assigned.expired and _is_late(outcome, assigned):
                self._discard(outcome.values)
                self._timed_out(held, index, assigned)
                continue
            if outcome.verb == Verb.CANCELLED or (
                outcome.retryable and self._may_retry(held, index, assigned)
            ):
                # An interrupt that hit a call nobody cancelled is no end of it. It may have run, so
                # if that may be once, it has crashed.
                self._discard(outcome.values)
                self._again(held, index, assigned)
                continue
            failed_late = assigned.expired and outcome.verb == Verb.FAILED
            # What an attempt has submitted that ran out of time goes with it.
            attempt = NOBODY if failed_late else assigned.attempt
            word = Word(index, Verb(outcome.verb), outcome.values, attempt, outcome.contains)
            if outcome.contains:
                # Before anything that this executor lets go of next: it may be one of these.
                self._dispatcher.valued(held.batch.id, outcome.contains, ())
            if any(codec.local_path(value) for value in outcome.values):
                self._io.run(
                    place(word, held.batch.id, self._nonce()),
                    partial(self._placed, held),
                    partial(self._not_placed, held, word),
                )
            else:
                held.say(word)
                touched[held] = None
        self._dispatcher.rested(worker)
        for held in touched:
            self._publish(held)
        self._dispatcher.run()

    def _discard(self, values: tuple[bytes, ...]) -> None:
        """Nobody will ask for these: remove the files of those that were spooled."""
        for value in values:
            path = codec.local_path(value)
            if path is not None:
                self.discard(Path(path))

    def _placed(self, held: Held, word: Word) -> None:
        batch = held.batch.id
        objects = tuple(
            (ids.object_id(batch, word.index, number), key)
            for number, value in enumerate(word.values)
            if (key := codec.stored_key(value)) is not None
        )
        if objects:
            self._dispatcher.valued(batch, (), objects)
        held.say(word)
        self._publish(held)

    def _not_placed(self, held: Held, word: Word) -> None:
        self._discard(word.values)
        error = RaySystemError("its value could not be stored; the agent's log says why")
        self._placed(held, Word(word.index, Verb.FAILED, (error_payload(error),), word.attempt))

    def _again(self, held: Held, index: int, assigned: Assigned) -> None:
        held.attempts[index] = assigned.attempt + 1
        held.running.pop(index, None)
        self._dispatcher.ready(held, index)

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
        # Some may have run before, and what came of them went with the executor.
        begun = 0 if assigned is None else tickets.index(culprit) + 1
        self._dispatcher.requeue(worker, tickets, tickets[:begun])
        if assigned is not None and assigned.held.status[assigned.index] is Status.READY:
            # If that was its last attempt it is over now, not when an executor would be free.
            self._dispatcher.may_start(assigned.held, assigned.index)
        self._dispatcher.release(worker)
        self._dispatcher.run()

    def _failed_start(self, kind: Kind, worker: Worker, returncode: int) -> None:
        if self._dispatcher.draining:
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
        self._dispatcher.unfit(kind, error)


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
