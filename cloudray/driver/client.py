"""The driver's client: talks to the store, and listens to whichever agents it can reach.

It puts the parts together: `submitting` and `storing` send, `hearing` listens, `waiting` waits.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import msgspec

from cloudray import ids
from cloudray.bells.choice import bell_of
from cloudray.context import Anchor
from cloudray.driver.describing import Counts, count, describe_here
from cloudray.driver.far import Far
from cloudray.driver.following import Following, first_found, outcome_of
from cloudray.driver.freeing import Freeing
from cloudray.driver.hearing import Hearing
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.luggage import MAX_CODE_BYTES, Luggage
from cloudray.driver.misfits import Misfits
from cloudray.driver.peers import Peer, Peers
from cloudray.driver.pending import Pending
from cloudray.driver.printing import Printer
from cloudray.driver.progress import Progress
from cloudray.driver.promises import Promises, disappoint
from cloudray.driver.pump import Pump
from cloudray.driver.retention import Retention
from cloudray.driver.screen import open_display
from cloudray.driver.serving import Serving
from cloudray.driver.storing import Storing
from cloudray.driver.submitting import Submitting
from cloudray.driver.waiting import LEFT, Waiting
from cloudray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    RaySystemError,
)
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.nodes import list_nodes
from cloudray.protocol.records import Cluster, Heartbeat, Job, Verb
from cloudray.refs import ObjectRef
from cloudray.store import Ledger, Store, drive, drive_locked, layout
from cloudray.store.layout import QueueName
from cloudray.values.futures import end
from cloudray.values.outcomes import value_of

#: So long is printed what tasks have printed, when there is a lot of it at the end.
_LAST_LINES_S = 5.0
#: So many values are named that are missing.
_SHOWN = 5


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
        send_code: bool = False,
        max_code_bytes: int = MAX_CODE_BYTES,
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.settings = settings
        self.job = job
        self._lock = threading.RLock()
        book = DurationBook()
        #: None where dropping a ref deletes nothing
        self._lifetimes = Lifetimes() if settings.ephemeral else None
        self._following = Following(store, job.id, book, self._lifetimes)
        self._find = self._following.find
        self._prefix = ids.batch_prefix(days, job.id, job.submitter or ids.new_id())
        self.modules: Mapping[str, Any] | None = sys.modules if send_code else None
        self._promises = Promises(store, self._find, self._not_eager)
        self._printer = Printer()
        self._progress = Progress(self._following.results.journals, open_display)
        self._pending = Pending(store, self._following)
        self._on_agent_lost = on_agent_lost
        self._peers = Peers(job.id, want_logs=log_to_driver, on_lost=self._lost, days=days)
        self._serving = Serving(store, self._peers, book, settings.commit_s)
        self._requests = 0
        self.closed = False
        self._freeing = Freeing(
            store,
            self._following,
            self._lifetimes,
            self._lock,
            settings.lease_s,
            self._listen,
        )
        self._storing = Storing(store, self._peers, self._following, self._freeing, self._prefix)
        self._hearing = Hearing(
            self._lock,
            settings.commit_s,
            self._peers,
            self._serving,
            self._following,
            self._lifetimes,
            self._promises,
            self._printer,
            Misfits(embedded=settings.ephemeral),
        )
        #: None where the store answers at once
        self._far: Far | None = None
        if not store.inline:
            bell = bell_of(store, settings, time.monotonic)
            hear, rang = self._hearing.hear, self._storing.rang
            self._far = Far(store, settings.commit_s, hear, rang, bell)
            self._storing.far = self._hearing.far = self._far
        self._pump = Pump(self._turn, self._tick, self._peers.wake)
        self._waiting = Waiting(
            self._lock,
            self._pump,
            self._hearing,
            self._following,
            self._lifetimes,
            self._progress,
            self._prefix,
        )
        self._submitting = Submitting(
            self._lock,
            self._prefix,
            book,
            self._serving,
            self._following,
            self._lifetimes,
            self._storing,
            Luggage(
                self._storing.code,
                automatic=send_code,
                limit_bytes=max_code_bytes,
                cluster=store.url,
            ),
            None if settings.ephemeral else Retention(job, days),
            self._pump,
            self._waiting,
        )
        # Of `context.Client`. Bound once: nothing is called more often.
        self.submit = self._submitting.submit
        self.prepare = self._submitting.prepare
        self.code_of = self._submitting.code_of
        self.store_value = self._submitting.store_value
        self.escape = self._submitting.escape
        self._pump.start()

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
        """Store everything that has been submitted, and wait until it is."""
        self._submitting.flush()

    def close(self) -> None:
        """Store what is buffered, print what is left, and hang up."""
        if self.closed:
            return
        try:
            self.flush()
        except ObjectStoreFullError:
            # What an embedded cluster has no room for would end with it anyway.
            if not self.settings.ephemeral:
                raise
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Print what is left, and end; what is not stored yet never will be."""
        if self.closed:
            return
        self.closed = self._freeing.closed = self._waiting.closed = True
        try:
            self._pump.close()
            if self._far is not None:
                self._far.close()
            self._progress.close()
            self._promises.close()
            self._disappoint(LEFT)
            for message in self._peers.last_messages(_LAST_LINES_S):
                if isinstance(message, m.Printed):
                    self._printer.take(message.lines)
            self._printer.flush()
        finally:
            # Also if a Ctrl-C has cut that short: whoever waits for a future must not wait on.
            self._disappoint(LEFT)
            self._peers.close()

    def give_up(self, why: str) -> None:
        """Nothing will ever run here any more: whoever waits, now or later, is told why."""
        self._waiting.hopeless = why
        self._disappoint(why)
        self._pump.tell_followers()

    def _disappoint(self, why: str) -> None:
        with self._lock:
            left = self._promises.take_all()
        disappoint(left, why)

    def forget(self) -> None:
        """In a forked child: close this process's copies of the connections, and nothing else.

        No lock is taken: whoever held it at the fork is not here to give it back.
        """
        self.closed = True
        self._peers.close()
        if self._far is not None:
            self._far.forget()

    # -- context.Client ----------------------------------------------------------------------

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._submitting.flush_for(refs, deadline_s)
        words = self._waiting.words(refs, None, timeout_s, deadline_s)
        for ref, word in zip(refs, words, strict=True):
            if word is not None and word.verb is not Verb.DONE:
                value_of(outcome_of(self.store, ref.id, word))
        pending = [ref for ref, word in zip(refs, words, strict=True) if word is None]
        if pending:
            if timeout_s is None:
                missing = ", ".join(ids.short(ref.id) for ref in pending[:_SHOWN])
                msg = (
                    f"the wait for {len(refs)} values ended, and {len(pending)} of them are not "
                    f"there ({missing}). This is a fault of cloudray, please report it; get() "
                    "may be called again."
                )
                raise RaySystemError(msg)
            lines = self._pending.explain(pending, timeout_s)
            raise GetTimeoutError(pending=lines, timeout_s=timeout_s)
        return [
            value_of(outcome_of(self.store, ref.id, word))
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
            deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
            self._submitting.flush_for(refs, deadline_s)
            self._waiting.words(refs, num_returns, timeout_s, deadline_s)
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
            self._submitting.flush_what_fits()
            word = self._find(ref.id)
            why_never = self._waiting.why_never
            if word is None and why_never is None:
                self._promises.add(ref, future)
                self._pump.eager = True
                if ids.index_of(ref.id) != ids.PUT_INDEX:
                    self._waiting.follow(ref.id)
        if word is not None:
            end(future, partial(outcome_of, self.store, ref.id, word))
        elif why_never is not None:
            disappoint([future], why_never)
        else:
            self._pump.stir()
        return future

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Say CANCELLED; children of a cancelled attempt are orphans, unless it says otherwise."""
        with self._lock:
            self._submitting.flush_what_fits()
        is_ours = ids.job_of(ref.id) == self.job.id
        if not is_ours and self.store.head(layout.meta(ref.id)) is None:
            # Nothing is said in a journal that nobody reads.
            reason = "this cluster has no such job: it belongs to another cluster"
            raise ObjectLostError(ref.id.hex(), reason=reason)
        cancelling = self._following.cancel(ref.id, force=force, recursive=recursive)
        batch = drive_locked(self.store, self._lock, cancelling)
        with self._lock:
            self._promises.settle()
        # Whoever waits for it while another thread listens need not wait for that one's turn.
        self._pump.tell_followers()
        self._peers.send(m.Look((batch,)))

    def anchor(self, identifier: bytes) -> Anchor | None:
        """What refs to this id's batch keep alive."""
        if ids.index_of(identifier) == ids.PUT_INDEX and self._lifetimes is None:
            return None
        with self._lock:
            anchor = self._following.anchor(ids.unit_of(identifier))
            anchor.again.add(identifier)
        return anchor

    def describe(self, identifier: bytes) -> str:
        """What is known here of a value."""
        if self.settings.ephemeral and ids.job_of(identifier) != self.job.id:
            # No other job was ever here.
            return "closed cluster"
        return describe_here(self._following, identifier)

    def counts(self) -> Counts:
        """How far the tasks are that were submitted here and to which there are refs."""
        with self._lock:
            self._submitting.flush_what_fits()
            self._submitting.let_go()
            self._following.drop_unused()
            return count(self._following)

    def undecided(self, name: QueueName) -> int:
        """How many tasks of a queued batch are not over, as far as is known here; 0 if not ours."""
        following = self._following
        if name.batch in following.finished or not name.batch.startswith(self._prefix):
            return 0
        journal = following.results.journals.get(name.batch)
        return name.size - (0 if journal is None else len(journal.decided))

    def nodes(self) -> list[dict[str, Any]]:
        """Read the agents' heartbeats."""
        return drive(self.store, list_nodes(self.settings, time.time()))

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
            self._hearing.answers.clear()
        self._peers.send(m.Ask(request, "requests"))
        self._pump.run_until(lambda: len(self._hearing.answers) >= wanted, time.monotonic() + 5)
        for payload in self._hearing.answers:
            total.merge(msgspec.msgpack.decode(payload))
        return total

    # -- listening ---------------------------------------------------------------------------

    def see(self, beats: Sequence[Heartbeat]) -> None:
        """Take in which agents there are."""
        self._serving.see(beats)

    def _turn(self, timeout_s: float) -> None:
        self._hearing.turn(timeout_s, awaited=self._pump.awaited)

    def _listen(self, seconds: float) -> None:
        self._waiting.listen(seconds)

    def _not_eager(self) -> None:
        self._pump.eager = False

    def _lost(self, peer: Peer) -> None:
        """An agent hung up."""
        self._hearing.lost()
        self._serving.lost(peer)
        if self._lifetimes is not None:
            with self._lock:
                self._lifetimes.agent_lost()
        if self._on_agent_lost is not None and not self.closed:
            self._on_agent_lost(peer.address, peer.greeting.agent if peer.greeting else "")

    # -- in the background -------------------------------------------------------------------

    def _tick(self) -> bool:
        """Store buffers that have stopped growing or waited long; whether more is to come."""
        if self._progress.active:
            self._progress.look()
        if self._freeing.due:
            self._freeing.free()
        if not self._lock.acquire(blocking=False):
            return True
        try:
            waiting = self._submitting.flush_if_due()
            if self._promises.has_cancelled:
                self._promises.drop_cancelled()
            return waiting or bool(self._promises)
        finally:
            self._lock.release()
