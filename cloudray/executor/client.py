"""How user code in a task reaches the cluster: through the executor's agent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cloudray import ids
from cloudray.context import Anchor
from cloudray.executor.handles import Handles
from cloudray.protocol import messages as m
from cloudray.protocol.batching import batch_limit
from cloudray.protocol.buffer import Linger, Prepared, SubmitBuffer
from cloudray.protocol.demand import from_units
from cloudray.protocol.records import Batch, Code, Parent, Shape, fields_of
from cloudray.refs import ObjectRef
from cloudray.store import Room, envelope
from cloudray.store.layout import QueueName
from cloudray.store.patience import write_patiently
from cloudray.values.futures import Settler
from cloudray.values.outcomes import Outcome, refs_of, settle, timed_out, value_of

if TYPE_CHECKING:
    from cloudray.code.packer import Packer

#: An executor knows nothing of other agents, so it sizes unmeasured batches as for one.
_AGENTS = 1
#: With more outcomes than this, those are forgotten that nobody can ask for again.
_MANY_OUTCOMES = 1000
#: How often calls that wait for company are looked at.
TICK_S = 0.004


class Attempt:
    """What one attempt of a task has submitted so far, and whether it waits.

    Its threads may outlive it: what they submit then still goes under its name.
    """

    def __init__(self, call: m.Call, shape: Shape, days: int, job: bytes) -> None:
        self.call = call
        self.shape = shape
        self.prefix = ids.batch_prefix(days, job, ids.new_id())
        self.buffer: SubmitBuffer | None = None
        self.cancelled = False
        #: how many values its threads and futures wait for; its slot is lent while there are any
        self.blocked = 0
        self.over = False


class ExecutorClient:
    """A `context.Client` that talks to the agent over the executor's link.

    Results that were waited for are kept until the attempt ends. Calls that an attempt makes are
    stored in batches: when it waits, when it ends, or by `flush_due`, for which `wake` asks.
    """

    #: its calls have the code that the running task has
    modules: Mapping[str, Any] | None = None

    def __init__(
        self,
        send: Callable[[m.Message], None],
        wake: Callable[[], None],
        setup: m.Setup,
        send_outcomes: Callable[[], None] = lambda: None,
    ) -> None:
        self._send = send
        self._send_outcomes = send_outcomes
        self._wake = wake
        self._setup = setup
        #: opened when the first large value is written
        self._room: Room | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._attempt: Attempt | None = None
        self._outcomes: dict[bytes, Outcome] = {}
        self._many_outcomes = _MANY_OUTCOMES
        self._wanted: set[bytes] = set()
        #: with each future its ref: nothing else may name its value
        self._futures: dict[bytes, list[tuple[Attempt, ObjectRef[Any], Future[Any]]]] = {}
        self._settler = Settler()
        self._uploaded: set[str] = set()
        self._packer: Packer | None = None
        #: threads that are waiting, of this attempt or left over from earlier ones
        self._waiting = 0
        #: calls wait for company: `flush_due` is on its way
        self._stirred = False
        self._linger = Linger()
        self._answers: dict[int, bytes] = {}
        self._requests = 0
        #: None where nobody counts refs
        self.handles = Handles() if setup.counting else None

    # -- the executor's side ---------------------------------------------------------------

    def begin(self, attempt: Attempt) -> None:
        """An attempt starts: what is submitted from now on is its own."""
        with self._lock:
            # A thread of an earlier attempt may be submitting just now.
            self._flush()
            self._attempt = attempt

    def end(self) -> None:
        """The attempt is over: store what it submitted, before its result may travel."""
        attempt = self._attempt
        if attempt is None:
            return
        handles = self.handles
        if handles is not None and handles.restless:
            self.tell_handles()
        if attempt.buffer is not None or attempt.blocked or self._outcomes:
            with self._lock:
                self._flush()
                if attempt.blocked:
                    self._send(m.Blocked(blocked=False))
                attempt.over = True
                if not self._waiting:
                    self._outcomes.clear()
        attempt.over = True

    def tell_handles(self) -> None:
        """Say which units there are refs to here, and to which there are none any more.

        What this attempt has submitted, and earlier ones have returned, goes first: it may name
        those.
        """
        handles = self.handles
        if handles is not None:
            with self._lock:
                self._tell(handles, handles.take_dropped())

    def _tell(self, handles: Handles, dropped: tuple[bytes, ...]) -> None:
        if dropped:
            self._flush()
            self._send_outcomes()
        taken, pinned = handles.take_fresh()
        if taken or dropped or pinned:
            self._send(m.Handles(taken, dropped, pinned))

    def tell_dropped(self) -> None:
        """On the link's thread: say to which units there are no refs any more.

        A call that runs long gets and lets go of many values: they do not wait for its end.
        """
        handles = self.handles
        # Calls that wait for company may name what is gone, and are not stored for this alone.
        if handles is None or not handles.has_dropped or self._stirred:
            return
        if self._lock.acquire(blocking=False):
            try:
                dropped = handles.take_dropped()
                if dropped:
                    self._tell(handles, dropped)
            finally:
                self._lock.release()

    def flush_due(self) -> bool:
        """Store calls that have waited a little for company; whether to look again soon."""
        if not self._stirred:
            return False
        if not self._lock.acquire(blocking=False):
            return True
        try:
            attempt = self._attempt
            waiting = 0 if attempt is None or attempt.buffer is None else len(attempt.buffer)
            if self._linger.is_over(waiting):
                self._flush()
            self._stirred = waiting > 0
            return self._stirred
        finally:
            self._lock.release()

    def handle(self, message: m.Message) -> None:
        """Take in what the agent sent for this client."""
        settled: list[tuple[Future[Any], Outcome, ObjectRef[Any]]] = []
        with self._lock:
            if isinstance(message, m.Resolved):
                for identifier, verb, payload in message.outcomes:
                    outcome = self._outcomes[identifier] = Outcome(verb, payload, identifier)
                    self._wanted.discard(identifier)
                    for attempt, ref, future in self._futures.pop(identifier, ()):
                        self._block(attempt, -1)
                        settled.append((future, outcome, ref))
                self._forget_some()
            elif isinstance(message, m.Answer):
                self._answers[message.request] = message.payload
            self._changed.notify_all()
        for one in settled:
            self._settler.settle(*one)

    def _forget_some(self) -> None:
        """Forget outcomes to which there are no refs, for a call that runs long and gets many."""
        if self.handles is not None and len(self._outcomes) > self._many_outcomes:
            knows = self.handles.knows
            known = self._outcomes
            # The dictionary stays the same: who waits looks into it.
            for identifier in [one for one in known if not knows(one)]:
                del known[identifier]
            self._many_outcomes = max(_MANY_OUTCOMES, 2 * len(known))

    # -- context.Client --------------------------------------------------------------------

    def prepare(self, function: Any, options: Any) -> Prepared:
        """Ship a function with the next batch, unless this executor has done so before."""
        prepared, pickled = function.prepared(options, self.code_of(options))
        with self._lock:
            if prepared.shape.function not in self._uploaded:
                self._send(m.Blob(prepared.shape.function, pickled))
                self._uploaded.add(prepared.shape.function)
        return prepared  # type: ignore[no-any-return]

    def code_of(self, options: Any) -> Code:
        """What the running task has, unless these options ask for other code."""
        attempt = self._attempt
        own = Code() if attempt is None else attempt.shape.code
        if not options.wishes:
            return own
        from cloudray.code.packer import Packer, inherit  # few tasks send code on

        if self._packer is None:
            self._packer = Packer.of_task(self._send_package)
        return inherit(self._packer.pack(options.wishes), own)

    def _send_package(self, digest: str, archive: bytes) -> None:
        self._send(m.Blob(digest, archive, package=True))

    def submit(
        self,
        call: Prepared,
        arguments: bytes,
        arguments_id: bytes,
        depends_on: tuple[bytes, ...],
        contains: tuple[bytes, ...],
    ) -> Any:
        """Buffer a call of the running attempt."""
        with self._lock:
            buffer = self._buffer()
            batch, index = buffer.add(call, arguments, arguments_id, depends_on, contains)
            anchor = None
            if self.handles is not None:
                anchor = self.handles.submitting(batch, is_open=buffer.is_open(batch))
            if not self._stirred:
                self._stirred = True
                self._wake()
        return refs_of(batch, index, call.shape.num_returns, anchor)

    def store_value(self, parts: Sequence[Any], contains: tuple[bytes, ...]) -> ObjectRef[Any]:
        """Write a value into the spool, for the agent to adopt."""
        handles = self.handles
        if handles is not None and handles.has_dropped:
            # Their bytes may be what there is room for now.
            self.tell_handles()
        with self._lock:
            buffer = self._buffer()
            for inner in contains:
                buffer.flush_for(inner)
            identifier = ids.object_id(buffer.next_id(), ids.PUT_INDEX)
        path = self.spool(parts)
        ref: ObjectRef[Any] = ObjectRef(identifier, self.anchor(identifier))
        if handles is not None:
            with self._lock:
                handles.kept(identifier)
        self._send(m.Keep(identifier, path, contains))
        return ref

    def spool(self, parts: Sequence[Any]) -> str:
        """Write a record of a value where the agent can adopt it; returns the path.

        Where refs are counted, it waits for room while others may still let go of some. Raises
        `StoreFullError` when there is none.
        """
        if self.handles is None:
            return self._write(parts)
        return write_patiently(
            lambda: self._write(parts),
            free=self.tell_handles,
            wait=time.sleep,
            may_shrink=lambda: True,
        )

    def discard(self, path: str) -> None:
        """Give the room back of a value that was spooled, and that nobody will adopt."""
        if self._room is not None:
            self._room.release(Path(path))

    def _write(self, parts: Sequence[Any]) -> str:
        if self._room is None:
            self._room = Room(self._setup.room)
        head = envelope.header(envelope.Kind.OBJECT, envelope.new_nonce())
        return str(self._room.write((head, *parts)))

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""

        def enough(pending: int) -> bool:
            return pending == 0 or any(
                outcome.is_error
                for ref in refs
                if (outcome := self._outcomes.get(ref.id)) is not None
            )

        outcomes = self._await(refs, enough, timeout_s)
        for outcome in outcomes:
            if outcome is not None and outcome.is_error:
                value_of(outcome)
        pending = [ref for ref, outcome in zip(refs, outcomes, strict=True) if outcome is None]
        if pending and timeout_s is not None:
            raise timed_out(pending, timeout_s)
        return [value_of(outcome) for outcome in outcomes if outcome is not None]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until `num_returns` of the refs have outcomes."""
        outcomes = self._await(refs, lambda n: len(refs) - n >= num_returns, timeout_s)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, outcome in zip(refs, outcomes, strict=True):
            done = outcome is not None and len(ready) < num_returns
            (ready if done else rest).append(ref)
        return ready, rest

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future that the link's thread settles."""
        future: Future[Any] = Future()
        with self._lock:
            self._flush()
            outcome = self._outcomes.get(ref.id)
            if outcome is None:
                attempt = self._running()
                self._futures.setdefault(ref.id, []).append((attempt, ref, future))
                self._block(attempt, 1)
                self._want([ref.id])
        if outcome is not None:
            settle(future, outcome)
        return future

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Pass a cancellation to the agent."""
        with self._lock:
            self._flush()
        self._send(m.Cancel(ref.id, force, recursive))

    def escape(self, identifier: bytes, *, unseen: bool) -> None:
        """A ref leaves: the batch that makes its value must be with the agent first."""
        with self._lock:
            attempt = self._attempt
            if attempt is not None and attempt.buffer is not None:
                attempt.buffer.flush_for(identifier)
            if unseen and self.handles is not None:
                self.handles.pin(identifier)

    def anchor(self, identifier: bytes) -> Anchor | None:
        """What tells that there are refs to this id's unit here; None where nobody counts."""
        if self.handles is None:
            return None
        with self._lock:
            return self.handles.anchor(identifier)

    def describe(self, identifier: bytes) -> str:
        """What this attempt has learned of a value."""
        outcome = self._outcomes.get(identifier)
        if outcome is None:
            return "pending"
        return "failed" if outcome.is_error else "done"

    def nodes(self) -> list[dict[str, Any]]:
        """Ask the agent."""
        with self._changed:
            self._requests += 1
            request = self._requests
            self._send(m.Ask(request, "nodes"))
            self._changed.wait_for(lambda: request in self._answers)
            nodes: list[dict[str, Any]] = msgspec.msgpack.decode(self._answers.pop(request))
        return nodes

    def identity(self) -> dict[str, Any]:
        """Facts about the task that runs here."""
        attempt = self._attempt
        job = self._setup.job
        facts: dict[str, Any] = {
            "job_id": job.id.hex(),
            "node_id": self._setup.node,
            "worker_id": str(os.getpid()),
            "namespace": job.namespace,
            "worker_mode": "executor",
        }
        if attempt is not None:
            facts["runtime_env"] = fields_of(attempt.shape.code)
            facts |= {
                "task_id": attempt.call.place.hex(),
                "task_name": attempt.shape.name,
                "task_function_name": attempt.shape.function_name,
                "resources": {
                    name: from_units(units) for name, units in attempt.shape.demand.items()
                },
                "attempt_number": attempt.call.attempt,
                "cancelled": attempt.cancelled,
            }
        return facts

    # -- inside ----------------------------------------------------------------------------

    def _running(self) -> Attempt:
        attempt = self._attempt
        if attempt is None:
            msg = "no task has run in this process yet, so it can neither submit nor wait"
            raise RuntimeError(msg)
        return attempt

    def _buffer(self) -> SubmitBuffer:
        attempt = self._running()
        if attempt.buffer is None:
            call = attempt.call
            place = call.place
            index = int.from_bytes(place[ids.BATCH_ID_BYTES :], "big")
            buffer = SubmitBuffer(
                attempt.prefix,
                self._store_batch,
                lambda function: batch_limit(
                    None,
                    slots=1,
                    commit_s=1.0,
                    submitted=buffer.submitted.get(function, 0),
                    agents=_AGENTS,
                ),
                lambda _: None,
                depth=call.depth + 1,
                parent=Parent(place[: ids.BATCH_ID_BYTES], index, call.claim, call.attempt),
            )
            attempt.buffer = buffer
        return attempt.buffer

    def _store_batch(self, name: QueueName, batch: Batch) -> None:
        buffer = self._buffer()
        adding = buffer.adding_to == name.batch
        held = self.handles is None or self.handles.begun(name.batch, adding=adding)
        self._send(m.Submit(name.klass, name.priority, name.estimated_ms, batch, held))

    def _flush(self) -> None:
        if self._attempt is not None and self._attempt.buffer is not None:
            self._attempt.buffer.flush()

    def _want(self, identifiers: Iterable[bytes]) -> None:
        fresh = tuple(one for one in identifiers if one not in self._wanted)
        if fresh:
            # Sent before it is noted: asking twice is harmless, not asking is not.
            self._send(m.Want(fresh))
            self._wanted.update(fresh)

    def _block(self, attempt: Attempt, change: int) -> None:
        before = attempt.blocked
        attempt.blocked += change
        if not attempt.over and (before == 0) != (attempt.blocked == 0):
            self._send(m.Blocked(attempt.blocked > 0))

    def _await(
        self,
        refs: Sequence[ObjectRef[Any]],
        enough: Callable[[int], bool],
        timeout_s: float | None,
    ) -> list[Outcome | None]:
        """Wait until `enough` says so of the number of refs without an outcome."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        known = self._outcomes
        with self._changed:
            self._flush()
            pending = [ref.id for ref in refs if ref.id not in known]
            if pending and not enough(len(pending)):
                attempt = self._running()
                self._waiting += 1
                try:
                    self._block(attempt, 1)
                    self._want(pending)
                    while pending and not enough(len(pending)):
                        left_s = None if deadline_s is None else deadline_s - time.monotonic()
                        if left_s is not None and left_s <= 0:
                            break
                        self._changed.wait(left_s)
                        pending = [one for one in pending if one not in known]
                finally:
                    self._waiting -= 1
                    self._block(attempt, -1)
            return [known.get(ref.id) for ref in refs]
