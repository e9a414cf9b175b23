"""The driver's client: talks to the store, and listens to whichever agents it can reach."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from cloudray import ids
from cloudray.context import Anchor
from cloudray.driver.following import Following, first_found
from cloudray.driver.peers import Peer, Peers
from cloudray.driver.printing import Printer
from cloudray.driver.pump import Pump
from cloudray.exceptions import ObjectLostError, RaySystemError
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook, batch_limit
from cloudray.protocol.buffer import Linger, Prepared, SubmitBuffer
from cloudray.protocol.demand import UNIT
from cloudray.protocol.nodes import heartbeats, list_nodes
from cloudray.protocol.records import Batch, Cluster, Job, Verb, Word
from cloudray.refs import ObjectRef
from cloudray.store import Ledger, Put, Store, drive, envelope, layout
from cloudray.store.envelope import HEADER_BYTES
from cloudray.store.layout import QueueName
from cloudray.values import codec
from cloudray.values.futures import Settler
from cloudray.values.outcomes import (
    Outcome,
    refs_of,
    settle,
    timed_out,
    value_of,
)

#: How often journals are looked at although agents that would hint are connected.
_RARE_LOOK_S = 1.0
#: How often agents that started meanwhile are looked for.
_PEERS_S = 1.0

_LEFT = "the cluster was shut down while this value was waited for"


class DriverClient:
    """A `context.Client` for one job of this process."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        settings: Cluster,
        job: Job,
        *,
        days: int,
        log_to_driver: bool,
        on_agent_lost: Callable[[str, str], None] | None = None,
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.settings = settings
        self.job = job
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._book = DurationBook()
        self._following = Following(store, job.id, self._book)
        self._find = self._following.find
        self._slots, self._agents = 1, 1
        self._prefix = ids.batch_prefix(days, job.id, ids.new_id())
        self._buffer = SubmitBuffer(
            self._prefix, self._store_batch, self._limit_of, self._book.mean_us
        )
        self._digests: set[str] = set()
        self._last_anchor: tuple[bytes, Anchor] | None = None
        #: with each future its ref, which keeps the batch from being forgotten
        self._futures: dict[bytes, list[tuple[ObjectRef[Any], Future[Any]]]] = {}
        self._settler = Settler()
        self._printer = Printer()
        self._on_agent_lost = on_agent_lost
        self._peers = Peers(job.id, want_logs=log_to_driver, on_lost=self._lost)
        self._answers: dict[int, bytes] = {}
        self._requests = 0
        self._looked_s = 0.0
        self._peers_s = time.monotonic()
        self._linger = Linger()
        self.closed = False
        self._pump = Pump(self._turn, self._tick, self._peers.wake, self._changed)

    # -- joining and leaving -----------------------------------------------------------------

    def connect(self, address: str) -> Peer | None:
        """Listen to an agent on this machine."""
        peer = self._peers.connect(address)
        if peer is not None:
            self._pump.stir()
        return peer

    def await_greeting(self, peer: Peer, timeout_s: float, alive: Callable[[], bool]) -> bool:
        """Wait until an agent is ready; False if it does not get so far."""
        deadline_s = time.monotonic() + timeout_s
        while peer.greeting is None and alive() and time.monotonic() < deadline_s:
            self._pump.run_until(
                lambda: peer.greeting is not None or not alive(), time.monotonic() + 0.2
            )
        return peer.greeting is not None

    def flush(self) -> None:
        """Store everything that has been submitted."""
        with self._lock:
            self._buffer.flush()

    def close(self) -> None:
        """Store what is buffered, print what is left, and hang up."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        self._pump.close()
        self._settler.close()
        left = [pair for pairs in self._futures.values() for pair in pairs]
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(RaySystemError(_LEFT))
        for _, message in self._peers.wait(0.0):
            if isinstance(message, m.Printed):
                self._printer.take(message.lines)
        self._printer.flush()
        self._peers.close()

    # -- context.Client ----------------------------------------------------------------------

    def prepare(self, function: Any, options: Any) -> Prepared:
        """Upload a function, unless this job has it."""
        prepared: Prepared
        prepared, pickled = function.prepared(options)
        digest = prepared.shape.function
        with self._lock:
            if digest not in self._digests:
                key = layout.blob(self._prefix, digest)
                self.store.perform(Put(key, envelope.seal(envelope.Kind.BLOB, pickled)))
                self._digests.add(digest)
        return prepared

    def submit(
        self,
        call: Prepared,
        arguments: bytes,
        arguments_id: bytes,
        depends_on: tuple[bytes, ...],
        contains: tuple[bytes, ...],
    ) -> Any:
        """Buffer a call; stored when its batch is full, when somebody waits, or soon."""
        with self._lock:
            self._following.submitting = True
            try:
                batch, index = self._buffer.add(call, arguments, arguments_id, depends_on, contains)
            finally:
                self._following.submitting = False
            last = self._last_anchor
            if last is not None and last[0] == batch:
                anchor = last[1]
            else:
                anchor = self._following.anchor(batch)
                self._last_anchor = (batch, anchor)
        if self._pump.quiet:
            self._pump.stir()
        return refs_of(batch, index, call.shape.num_returns, anchor)

    def store_value(self, parts: Sequence[Any]) -> bytes:
        """Put a value into the store, and return its id."""
        with self._lock:
            identifier = ids.object_id(self._buffer.next_id(), ids.PUT_INDEX)
        head = envelope.header(envelope.Kind.OBJECT, envelope.new_nonce())
        self.store.perform(Put(layout.put_object(identifier), (head, *parts)))
        return identifier

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""
        words = self._await(refs, None, timeout_s)
        for ref, word in zip(refs, words, strict=True):
            if word is not None and word.verb is not Verb.DONE:
                value_of(self._outcome(ref.id, word))
        pending = [ref for ref, word in zip(refs, words, strict=True) if word is None]
        if pending and timeout_s is not None:
            raise timed_out(pending, timeout_s)
        return [
            value_of(self._outcome(ref.id, word))
            for ref, word in zip(refs, words, strict=True)
            if word is not None
        ]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until `num_returns` of the refs have outcomes."""
        identifiers = [ref.id for ref in refs]
        ready = first_found(identifiers, num_returns, self._find)
        if len(ready) < num_returns:
            self._await(refs, num_returns, timeout_s)
            ready = first_found(identifiers, num_returns, self._find)
        chosen = set(ready)
        return (
            [refs[position] for position in ready],
            [ref for position, ref in enumerate(refs) if position not in chosen],
        )

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future that whoever listens settles."""
        future: Future[Any] = Future()
        with self._lock:
            self._buffer.flush()
            word = self._find(ref.id)
            if word is None:
                self._futures.setdefault(ref.id, []).append((ref, future))
                self._pump.eager = True
                if ids.index_of(ref.id) != ids.PUT_INDEX:
                    self._following.follow(ref.id)
        if word is not None:
            settle(future, self._outcome(ref.id, word))
        else:
            self._pump.stir()
        return future

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Say CANCELLED; children of a cancelled attempt are orphans, so they go with it."""
        del recursive
        with self._lock:
            self._buffer.flush()
            batch = self._following.cancel(ref.id, force=force)
            self._settle_futures()
        self._peers.send(m.Look((batch,)))

    def escape(self, identifier: bytes) -> None:
        """A ref leaves the process: store the batch that makes its value."""
        with self._lock:
            self._buffer.flush_for(identifier)

    def anchor(self, identifier: bytes) -> Anchor | None:
        """What refs to this id's batch keep alive."""
        if ids.index_of(identifier) == ids.PUT_INDEX:
            return None
        with self._lock:
            return self._following.anchor(identifier[: ids.BATCH_ID_BYTES])

    def nodes(self) -> list[dict[str, Any]]:
        """Read the agents' heartbeats."""
        return drive(self.store, list_nodes())

    def identity(self) -> dict[str, Any]:
        """Facts about the driver."""
        return {
            "job_id": self.job.id.hex(),
            "node_id": "",
            "worker_id": str(os.getpid()),
            "namespace": self.job.namespace,
            "worker_mode": "driver",
            "address": self.store.url,
        }

    def requests(self) -> Ledger:
        """Storage requests so far: this driver's and its reachable agents'."""
        total = Ledger()
        total.merge(self.ledger)
        with self._lock:
            self._requests += 1
            request = self._requests
            wanted = len(self._peers)
            self._answers.clear()
        self._peers.send(m.Ask(request, "requests"))
        self._pump.run_until(lambda: len(self._answers) >= wanted, time.monotonic() + 5)
        for payload in self._answers.values():
            total.merge(msgspec.msgpack.decode(payload))
        return total

    # -- submitting --------------------------------------------------------------------------

    def _limit_of(self, function: str) -> int:
        return batch_limit(
            self._book.mean_us(function),
            slots=max(1, self._slots // self._agents),
            commit_s=self.settings.commit_s,
            submitted=self._buffer.submitted.get(function, 0),
            agents=self._agents,
        )

    def _store_batch(self, name: QueueName, batch: Batch) -> None:
        self._following.submitted(name, batch)
        drive(self.store, claims.submit(name, batch))
        self._peers.send(m.Ring((name,)))

    # -- waiting -----------------------------------------------------------------------------

    def _await(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int | None, timeout_s: float | None
    ) -> list[Word | None]:
        """Wait for `num_returns` outcomes (None: for all, or the first error)."""
        find = self._find
        with self._lock:
            self._buffer.flush()
            words = [find(ref.id) for ref in refs]
            pending = [position for position, word in enumerate(words) if word is None]
            for position in pending:
                self._following.follow(refs[position].id)
        if not pending:
            return words

        failed = any(word is not None and word.verb is not Verb.DONE for word in words)

        def enough() -> bool:
            nonlocal pending, failed
            still = []
            for position in pending:
                word = words[position] = find(refs[position].id)
                if word is None:
                    still.append(position)
                elif word.verb is not Verb.DONE:
                    failed = True
            pending = still
            if num_returns is not None:
                return len(words) - len(pending) >= num_returns
            return failed or not pending

        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        if self._following.restless:
            # Also when there is no time to wait: what ended long ago is ready.
            self._look_around()
        if not enough() and not self._pump.run_until(enough, deadline_s) and self.closed:
            raise RaySystemError(_LEFT)
        return words

    def _outcome(self, identifier: bytes, word: Word) -> Outcome:
        verb, payload = int(word.verb), b""
        if word.verb is Verb.DONE:
            payload = word.values[ids.return_of(identifier)]
        elif word.verb is Verb.FAILED:
            payload = word.values[0]
        key = codec.stored_key(payload)
        if key is not None:
            path = self.store.path(key)
            if path is not None:
                payload = codec.local(str(path))
            else:
                body = self.store.get(key)
                if body is None:
                    raise ObjectLostError(identifier.hex(), reason=f"{key} is not in the store")
                payload = body[HEADER_BYTES:]
        return Outcome(verb, payload, identifier)

    # -- listening ---------------------------------------------------------------------------

    def _turn(self, timeout_s: float) -> None:
        """Wait for hints and act on them; look for oneself when none comes."""
        look_s = _RARE_LOOK_S if len(self._peers) else self.settings.commit_s / 2
        if self._following.restless:
            # Something is waited for that may have ended before anybody listened for hints.
            self._look_around()
            timeout_s = 0.0
        messages = self._peers.wait(min(timeout_s, look_s))
        if messages:
            with self._lock:
                for peer, message in messages:
                    self._handle(peer, message)
        if time.monotonic() - self._looked_s > look_s:
            self._look_around()

    def _handle(self, peer: Peer, message: m.Message) -> None:
        if isinstance(message, m.Published):
            news = self._following.published(message.batch, message.next, message.entry)
            if news and self._futures:
                self._settle_futures()
        elif isinstance(message, m.Printed):
            self._printer.take(message.lines)
        elif isinstance(message, m.Greeting):
            peer.greeting = message
            self._count_slots(message)
        elif isinstance(message, m.Answer):
            self._answers[len(self._answers)] = message.payload

    def _count_slots(self, greeting: m.Greeting) -> None:
        slots = max(1, greeting.total.get("CPU", 0) // UNIT)
        if len(self._peers) <= 1:
            self._slots, self._agents = slots, 1
        else:
            self._slots += slots
            self._agents += 1

    def _settle_futures(self) -> None:
        for identifier in list(self._futures):
            word = self._find(identifier)
            if word is None:
                continue
            outcome = self._outcome(identifier, word)
            for _, future in self._futures.pop(identifier):
                self._settler.settle(future, outcome)
        if not self._futures:
            self._pump.eager = False

    def _look_around(self) -> None:
        """Hints may be lost: see for oneself."""
        with self._lock:
            self._looked_s = time.monotonic()
            if self._following.look_around() and self._futures:
                self._settle_futures()
        self._find_peers()

    def _find_peers(self) -> None:
        now_s = time.monotonic()
        if now_s - self._peers_s < _PEERS_S:
            return
        self._peers_s = now_s
        known = self._peers.addresses()
        for beat in drive(self.store, heartbeats()):
            if beat.socket not in known:
                self._peers.connect(beat.socket)

    def _lost(self, peer: Peer) -> None:
        """An agent hung up: what it held will be taken over; look around soon."""
        self._looked_s = 0.0
        self._peers_s = 0.0
        if self._on_agent_lost is not None and not self.closed:
            self._on_agent_lost(peer.address, peer.greeting.agent if peer.greeting else "")

    # -- in the background -------------------------------------------------------------------

    def _tick(self) -> bool:
        """Store buffers that have stopped growing or waited long; whether more is to come."""
        if self._following.has_unused:
            with self._lock:
                self._following.drop_unused()
        if not self._lock.acquire(blocking=False):
            return True
        try:
            waiting = len(self._buffer)
            if self._linger.is_over(waiting):
                self._buffer.flush()
            return bool(waiting or self._futures)
        finally:
            self._lock.release()
