"""The driver's client: talks to the store, and listens to whichever agents it can reach."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from cloudray import ids
from cloudray.bells.choice import bell_of
from cloudray.context import Anchor
from cloudray.driver import far as away
from cloudray.driver.describing import Counts, count, describe
from cloudray.driver.far import Far, Looked, Seen, Unstored
from cloudray.driver.following import Following, first_found, outcome_of
from cloudray.driver.freeing import Freeing
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.looking import Found
from cloudray.driver.luggage import MAX_CODE_BYTES, Luggage
from cloudray.driver.misfits import Misfits
from cloudray.driver.peers import Peer, Peers
from cloudray.driver.pending import Pending
from cloudray.driver.printing import Printer
from cloudray.driver.progress import Progress
from cloudray.driver.pump import Pump
from cloudray.driver.screen import open_display
from cloudray.driver.uploads import MAX_COPIED_BYTES
from cloudray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    RaySystemError,
)
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.batching import DurationBook, batch_limit
from cloudray.protocol.buffer import Linger, Prepared, SubmitBuffer
from cloudray.protocol.demand import UNIT
from cloudray.protocol.nodes import heartbeats, list_nodes
from cloudray.protocol.records import Batch, Cluster, Code, Heartbeat, Job, Verb, Word
from cloudray.refs import ObjectRef
from cloudray.store import Ledger, Put, Store, StoreError, StoreFullError, drive, envelope, layout
from cloudray.store.bodies import join, size_of
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName
from cloudray.store.patience import ROOM_LOOK_S, ROOM_S
from cloudray.values.futures import Settler
from cloudray.values.outcomes import (
    Outcome,
    error_payload,
    refs_of,
    settle,
    value_of,
)

#: How often journals are looked at although agents that would hint are connected.
_RARE_LOOK_S = 1.0
#: Who waits for less than this, in seconds, has the first look made for him all the same, which
#: may take so long.
_SHORT_S, _GLANCE_S = 0.05, 2.0
#: How often agents that started meanwhile are looked for.
_PEERS_S = 1.0

_FREED = (
    "it was freed when no ref to it was left: an id as text or bytes keeps nothing alive, so keep "
    "the ref itself too"
)
#: So long is printed what tasks have printed, when there is a lot of it at the end.
_LAST_LINES_S = 5.0
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
        send_code: bool = False,
        max_code_bytes: int = MAX_CODE_BYTES,
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.settings = settings
        self.job = job
        self._lock = threading.RLock()
        self._book = DurationBook()
        #: None where dropping a ref deletes nothing
        self._lifetimes = Lifetimes() if settings.ephemeral else None
        self._following = Following(store, job.id, self._book, self._lifetimes)
        self._find = self._following.find
        self._slots, self._agents = 1, 1
        self._prefix = ids.batch_prefix(days, job.id, job.submitter or ids.new_id())
        self._buffer = SubmitBuffer(
            self._prefix, self._store_batch, self._limit_of, self._book.mean_us
        )
        self._digests: set[str] = set()
        self._luggage = Luggage(
            self._upload, automatic=send_code, limit_bytes=max_code_bytes, cluster=store.url
        )
        self.modules: Mapping[str, Any] | None = sys.modules if send_code else None
        self._last_anchor: tuple[bytes, Anchor] | None = None
        #: with each future its ref, which keeps the batch from being forgotten
        self._futures: dict[bytes, list[tuple[ObjectRef[Any], Future[Any]]]] = {}
        self._settler = Settler()
        self._printer = Printer()
        self._misfits = Misfits(embedded=settings.ephemeral)
        self._progress = Progress(self._following.results.journals, open_display)
        self._pending = Pending(store, self._following)
        self._on_agent_lost = on_agent_lost
        self._peers = Peers(job.id, want_logs=log_to_driver, on_lost=self._lost, days=days)
        #: messages that have come and are not handled yet
        self._heard: deque[tuple[Peer, m.Message] | away.Message] = deque()
        self._answers: dict[int, bytes] = {}
        self._requests = 0
        self._looked_s = 0.0
        self._peers_s = time.monotonic()
        self._linger = Linger()
        self.closed = False
        #: why nothing will ever run here any more, if so
        self._hopeless: str | None = None
        self._freeing = Freeing(
            store, self._following, self._lifetimes, self._lock, settings.lease_s, self._listen
        )
        #: None where the store answers at once
        self._far: Far | None = None
        if not store.inline:
            bell = bell_of(store, settings, time.monotonic)
            self._far = Far(store, settings.commit_s, self._hear, self._rang, bell)
        self._pump = Pump(self._turn, self._tick, self._peers.wake)
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
        with self._lock:
            self._buffer.flush()
        if self._far is not None:
            self._far.uploads.wait()

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
        self.closed = self._freeing.closed = True
        self._pump.close()
        if self._far is not None:
            self._far.close()
        self._progress.close()
        self._settler.close()
        self._disappoint(_LEFT)
        for message in self._peers.last_messages(_LAST_LINES_S):
            if isinstance(message, m.Printed):
                self._printer.take(message.lines)
        self._printer.flush()
        self._peers.close()

    def give_up(self, why: str) -> None:
        """Nothing will ever run here any more: whoever waits, now or later, is told why."""
        self._hopeless = why
        self._disappoint(why)
        self._pump.tell_followers()

    def _disappoint(self, why: str) -> None:
        with self._lock:
            left = [pair for pairs in self._futures.values() for pair in pairs]
            self._futures.clear()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(RaySystemError(why))

    def forget(self) -> None:
        """In a forked child: close this process's copies of the connections, and nothing else.

        No lock is taken: whoever held it at the fork is not here to give it back.
        """
        self.closed = True
        self._peers.close()
        if self._far is not None:
            self._far.forget()

    # -- context.Client ----------------------------------------------------------------------

    def prepare(self, function: Any, options: Any) -> Prepared:
        """Upload a function, unless this job has it."""
        prepared: Prepared
        # Batches that name it wait for it.
        code = self._luggage.code_of(options.wishes)
        prepared, pickled = function.prepared(options, code)
        digest = prepared.shape.function
        with self._lock:
            if digest not in self._digests:
                body = envelope.seal(envelope.Kind.BLOB, pickled)
                put = Put(layout.blob(self._prefix, digest), body)
                if self._far is not None:
                    self._far.uploads.put(digest, put)
                else:
                    with _full_for_users(f"the function {prepared.shape.function_name}"):
                        self.store.perform(put)
                self._digests.add(digest)
        return prepared

    def code_of(self, options: Any) -> Code:
        """The code that goes along with calls that have these options; it is stored by then."""
        code = self._luggage.code_of(options.wishes)
        if self._far is not None:
            self._far.uploads.wait(package.digest for package in code.packages)
        return code

    def _upload(self, digest: str, archive: bytes) -> None:
        body = envelope.seal(envelope.Kind.BLOB, archive)
        put = Put(layout.blob(self._prefix, digest), body)
        if self._far is not None:
            self._far.uploads.put(digest, put)
        else:
            with _full_for_users("the code that goes along"):
                self.store.perform(put)

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
            batch, index = self._buffer.add(call, arguments, arguments_id, depends_on, contains)
            last = self._last_anchor
            if last is not None and last[0] == batch:
                anchor = last[1]
            else:
                anchor = self._following.anchor(batch)
                # Kept here only while the batch is open: afterwards, refs alone keep it.
                self._last_anchor = (batch, anchor) if self._buffer.is_open(batch) else None
            if (depends_on or contains or arguments_id) and self._lifetimes is not None:
                self._lifetimes.submitted(batch, depends_on + contains, contains)
                if arguments_id:
                    self._lifetimes.passed(batch, index, arguments_id)
        if self._pump.quiet:
            self._pump.stir()
        return refs_of(batch, index, call.shape.num_returns, anchor)

    def store_value(self, parts: Sequence[Any], contains: tuple[bytes, ...]) -> ObjectRef[Any]:
        """Put a value into the store."""
        with self._lock:
            for inner in contains:
                self._buffer.flush_for(inner)
            identifier = ids.object_id(self._buffer.next_id(), ids.PUT_INDEX)
        head = envelope.header(envelope.Kind.OBJECT, envelope.new_nonce())
        key = layout.put_object(identifier)
        put = Put(key, (head, *parts))
        if self._far is None:
            self._freeing.write(put)
        else:
            names = [ids.unit_of(inner) for inner in contains]
            if size_of(put.body) <= MAX_COPIED_BYTES:
                self._far.uploads.put(ids.unit_of(identifier), Put(key, join(put.body)), names)
            else:
                self._far.uploads.wait(names)
                self._freeing.write(put)
        if self._lifetimes is None:
            return ObjectRef(identifier)
        with self._lock:
            anchor = self._following.anchor(ids.unit_of(identifier))
            self._lifetimes.stored(ids.unit_of(identifier), key, contains)
        return ObjectRef(identifier, anchor)

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""
        words = self._await(refs, None, timeout_s)
        for ref, word in zip(refs, words, strict=True):
            if word is not None and word.verb is not Verb.DONE:
                value_of(outcome_of(self.store, ref.id, word))
        pending = [ref for ref, word in zip(refs, words, strict=True) if word is None]
        if pending and timeout_s is not None:
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
        self._await_puts((ref,))
        with self._lock:
            self._flush_what_fits()
            word = self._find(ref.id)
            if word is None:
                self._futures.setdefault(ref.id, []).append((ref, future))
                self._pump.eager = True
                if ids.index_of(ref.id) != ids.PUT_INDEX:
                    self._follow(ref.id)
        if word is not None:
            settle(future, outcome_of(self.store, ref.id, word))
        else:
            self._pump.stir()
        return future

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Say CANCELLED; children of a cancelled attempt are orphans, unless it says otherwise."""
        with self._lock:
            self._flush_what_fits()
            is_ours = ids.job_of(ref.id) == self.job.id
            if not is_ours and self.store.head(layout.meta(ref.id)) is None:
                # Nothing is said in a journal that nobody reads.
                reason = "this cluster has no such job: it belongs to another cluster"
                raise ObjectLostError(ref.id.hex(), reason=reason)
            batch = self._following.cancel(ref.id, force=force, recursive=recursive)
            self._settle_futures()
        self._peers.send(m.Look((batch,)))

    def escape(self, identifier: bytes, *, unseen: bool) -> None:
        """A ref leaves the process: store the batch that makes its value."""
        with self._lock:
            self._buffer.flush_for(identifier)
            if unseen and self._lifetimes is not None:
                self._lifetimes.pin(ids.unit_of(identifier))
        if self._far is not None:
            self._far.uploads.wait((ids.unit_of(identifier),))

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
        return describe(self._following.results, identifier)

    def counts(self) -> Counts:
        """How far the tasks are that were submitted here and to which there are refs."""
        with self._lock:
            self._flush_what_fits()
            self._last_anchor = None
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
        self._last_anchor = None
        adding = self._buffer.adding_to == name.batch
        self._following.submitted(name, batch, adding=adding)
        if self._far is not None:
            self._far.hasten()
            self._far.uploads.batch(name, batch)
            return
        try:
            with _full_for_users(f"{len(batch.tasks)} calls of {batch.shapes[0].name}"):
                drive(self.store, claims.submit(name, batch))
        except ObjectStoreFullError:
            self._following.not_submitted(name.batch)
            raise
        self._peers.send(m.Ring((name,)))

    async def _rang(self, name: QueueName, batch: Batch) -> None:
        """A batch has been stored in the background: say so."""
        del batch
        self._peers.send(m.Ring((name,)))

    # -- waiting -----------------------------------------------------------------------------

    def _flush_for(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
        """Store all calls. That there is no room for some concerns only who waits for those."""
        waited_s = 0.0
        while True:
            with self._lock:
                try:
                    self._buffer.flush()
                except ObjectStoreFullError:
                    units = {ids.unit_of(ref.id) for ref in refs}
                    concerns = any(self._buffer.is_open(unit) for unit in units)
                    if not concerns or (timeout_s is not None and waited_s >= timeout_s):
                        return
                    if waited_s >= ROOM_S:
                        raise
                except StoreError as error:
                    if self._hopeless:
                        raise RaySystemError(self._hopeless) from error
                    raise
                else:
                    return
            # What runs may end, and make room.
            self._listen(ROOM_LOOK_S)
            waited_s += ROOM_LOOK_S

    def _await_puts(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Values that were put are there once they are stored."""
        if self._far is not None:
            put = [ref.id for ref in refs if ids.index_of(ref.id) == ids.PUT_INDEX]
            self._far.uploads.wait(map(ids.unit_of, put))

    def _flush_what_fits(self) -> None:
        """Store calls; whoever waits for those that there is no room for is told so."""
        with contextlib.suppress(ObjectStoreFullError):
            self._buffer.flush()

    def _await(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int | None, timeout_s: float | None
    ) -> list[Word | None]:
        """Wait for `num_returns` outcomes (None: for all, or the first error)."""
        find = self._find
        self._flush_for(refs, timeout_s)
        self._await_puts(refs)
        with self._lock:
            words = [find(ref.id) for ref in refs]
            pending = [position for position, word in enumerate(words) if word is None]
            for position in pending:
                self._follow(refs[position].id)
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
        self._look_first(timeout_s)
        if not enough():
            self._listen_until(enough, deadline_s, (refs, len(pending), num_returns))
        return words

    def _listen_until(
        self,
        enough: Callable[[], bool],
        deadline_s: float | None,
        wait: tuple[Sequence[ObjectRef[Any]], int, int | None],
    ) -> None:
        try:
            self._progress.begin(*wait)
            over = self._pump.run_until(lambda: enough() or bool(self._hopeless), deadline_s)
            if self._hopeless and not enough():
                raise RaySystemError(self._hopeless)
            if not over and self.closed:
                raise RaySystemError(_LEFT)
        finally:
            self._progress.end()

    def _follow(self, identifier: bytes) -> None:
        """Somebody waits for a value: follow its batch, if that is still there."""
        batch = ids.unit_of(identifier)
        lifetimes = self._lifetimes
        if lifetimes is None or lifetimes.is_born(batch) or not batch.startswith(self._prefix):
            self._following.follow(identifier)
        else:
            self._following.lose(batch, _FREED)

    # -- listening ---------------------------------------------------------------------------

    def _turn(self, timeout_s: float) -> None:
        """Wait for hints and act on them; look for oneself when none comes."""
        if self._far is not None:
            self._turn_far(self._far, timeout_s)
            return
        look_s = _RARE_LOOK_S if len(self._peers) else self.settings.commit_s / 2
        if self._following.restless:
            # Something is waited for that may have ended before anybody listened for hints.
            self._look_around()
            timeout_s = 0.0
        # What Ctrl-C has kept from being handled comes first: much is said only once.
        self._heard += self._peers.wait(0.0 if self._heard else min(timeout_s, look_s))
        if self._heard:
            with self._lock:
                self._handle_all()
        if time.monotonic() - self._looked_s > look_s:
            self._look_around()

    def _look_first(self, timeout_s: float | None) -> None:
        """Also when there is no time to wait: what ended long ago is ready."""
        if self._far is None:
            if self._following.restless:
                self._look_around()
        elif timeout_s is not None and timeout_s <= _SHORT_S:
            self._glance(self._far)

    def _glance(self, far: Far) -> None:
        """Do what can be done for somebody who does not wait, but may ask again and again.

        What is asked for the first time is looked at; else a look begins whenever one is due.
        """
        restless = self._following.restless
        now_s = time.monotonic()
        with self._lock:
            self._handle_all()
            if restless or far.due_s(now_s) <= 0.0:
                far.look(self._following.open_now(), now_s)
        if restless:
            self._pump.run_until(lambda: not far.is_looking, now_s + _GLANCE_S)

    def _turn_far(self, far: Far, timeout_s: float) -> None:
        """Do so where looking takes long: in the background, and only if somebody waits."""
        now_s = time.monotonic()
        if self._pump.awaited:
            due_s = 0.0 if self._following.restless else far.due_s(now_s)
            if due_s <= 0.0:
                with self._lock:
                    far.look(self._following.open_now(), now_s)
                due_s = self.settings.commit_s
            far.watch(now_s)
            timeout_s = min(timeout_s, due_s)
        self._heard += self._peers.wait(0.0 if self._heard else timeout_s)
        if self._heard:
            with self._lock:
                self._handle_all()

    def _hear(self, message: away.Message) -> None:
        """Take in what the background has found out."""
        self._heard.append(message)
        self._peers.wake()

    def _listen(self, seconds: float) -> None:
        """Take in what agents say, for so long."""
        self._pump.run_until(lambda: False, time.monotonic() + seconds)

    def _handle_all(self) -> None:
        heard = self._heard
        while heard:
            first = heard[0]
            try:
                if isinstance(first, tuple):
                    self._handle(*first)
                else:
                    self._handle_far(first)
            except KeyboardInterrupt:
                raise
            except BaseException:
                heard.popleft()
                raise
            # Unless a signal handler that waits has done so.
            if heard and heard[0] is first:
                heard.popleft()

    def _handle(self, peer: Peer, message: m.Message) -> None:
        if isinstance(message, m.Published):
            news = self._following.published(message.batch, message.next, message.entry)
            if news and self._futures:
                self._settle_futures()
            if self._lifetimes is not None:
                self._lifetimes.published(message)
        elif isinstance(message, m.Printed):
            self._printer.take(message.lines)
        elif isinstance(message, m.Greeting):
            peer.greeting = message
            if self._far is None:
                self._count_slots(message)
        elif isinstance(message, m.Answer):
            self._answers[len(self._answers)] = message.payload
        elif isinstance(message, m.Unschedulable):
            self._misfits.take(message)
        elif self._lifetimes is not None:
            self._lifetimes.hear(message)

    def _handle_far(self, message: away.Message) -> None:
        if isinstance(message, Found):
            if isinstance(message.entry, RecordError):
                self._following.lose(message.batch, f"its journal cannot be read: {message.entry}")
            elif not self._following.published(message.batch, message.number + 1, message.entry):
                return
        elif isinstance(message, Unstored):
            self._following.lose(message.unit, f"it could not be stored: {message.error}")
            if self._far is not None and self._following.existing_anchor(message.unit):
                self._far.uploads.told(message.unit)
        elif isinstance(message, Looked):
            if self._far is not None:
                news = self._following.looked(news=message.news)
                self._far.looked(time.monotonic(), news=news)
        elif isinstance(message, Seen):
            self.see(message.beats)
        if self._futures:
            self._settle_futures()

    def see(self, beats: Sequence[Heartbeat]) -> None:
        """Take in which agents there are."""
        self._agents = max(1, len(beats))
        cpus = sum(beat.total.get("CPU", 0) // UNIT for beat in beats)
        self._slots = max(1, cpus)
        known = self._peers.addresses()
        host = socket.gethostname()
        for beat in beats:
            if beat.host == host and beat.socket not in known:
                self._peers.connect(beat.socket)

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
            try:
                outcome = outcome_of(self.store, identifier, word)
            except ObjectLostError as lost:
                outcome = Outcome(Verb.FAILED, error_payload(lost), identifier)
            for ref, future in self._futures.pop(identifier):
                self._settler.settle(future, outcome, ref)
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
            waiting = len(self._buffer)
            if self._linger.is_over(waiting):
                self._flush_what_fits()
            return bool(waiting or self._futures)
        finally:
            self._lock.release()


@contextlib.contextmanager
def _full_for_users(what: str) -> Iterator[None]:
    """Let a full store say what it is full for, in the words of users."""
    try:
        yield
    except StoreFullError as full:
        raise ObjectStoreFullError(f"{what} cannot be stored: {full}") from None
