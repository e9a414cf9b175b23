"""Calls and values on their way out of the driver: buffered, then stored in order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from cloudray import ids
from cloudray.context import Anchor
from cloudray.driver.following import Following
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.luggage import Luggage
from cloudray.driver.pump import Pump
from cloudray.driver.retention import Retention
from cloudray.driver.serving import Serving
from cloudray.driver.storing import Storing
from cloudray.driver.waiting import Waiting
from cloudray.exceptions import ObjectStoreFullError, RaySystemError
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.buffer import Linger, Prepared, SubmitBuffer
from cloudray.protocol.records import Batch, Code
from cloudray.refs import ObjectRef
from cloudray.store import StoreError
from cloudray.store.layout import QueueName
from cloudray.store.patience import ROOM_LOOK_S, ROOM_S
from cloudray.values.outcomes import refs_of


class Submitting:
    """The part of a client that submits: functions, calls and values."""

    def __init__(
        self,
        lock: threading.RLock,
        prefix: bytes,
        book: DurationBook,
        serving: Serving,
        following: Following,
        lifetimes: Lifetimes | None,
        storing: Storing,
        luggage: Luggage,
        retention: Retention | None,
        pump: Pump,
        waiting: Waiting,
    ) -> None:
        """`prefix` is how all ids begin; `retention` is None where jobs do not end so."""
        self._lock = lock
        self._serving = serving
        self._following = following
        self._lifetimes = lifetimes
        self._storing = storing
        self._luggage = luggage
        self._retention = retention
        self._pump = pump
        self._waiting = waiting
        self._buffer = SubmitBuffer(prefix, self._store_batch, self._limit_of, book.mean_us)
        self._digests: set[str] = set()
        self._last_anchor: tuple[bytes, Anchor] | None = None
        self._linger = Linger()
        self._is_far = storing.far is not None

    def prepare(self, function: Any, options: Any) -> Prepared:
        """Upload a function, unless this job has it."""
        prepared: Prepared
        # Batches that name it wait for it.
        code = self._luggage.code_of(options.wishes)
        prepared, pickled = function.prepared(options, code)
        digest = prepared.shape.function
        if digest not in self._digests:
            self._storing.await_room()
        with self._lock:
            if digest not in self._digests:
                what = f"the function {prepared.shape.function_name}"
                self._storing.blob(digest, pickled, what)
                self._digests.add(digest)
        return prepared

    def code_of(self, options: Any) -> Code:
        """The code that goes along with calls that have these options; it is stored by then."""
        code = self._luggage.code_of(options.wishes)
        self._storing.wait([package.digest for package in code.packages])
        return code

    def submit(
        self,
        call: Prepared,
        arguments: bytes,
        arguments_id: bytes,
        depends_on: tuple[bytes, ...],
        contains: tuple[bytes, ...],
    ) -> Any:
        """Buffer a call; stored when its batch is full, when somebody waits, or soon."""
        if self._is_far:
            self._storing.await_room()
        with self._lock:
            last = self._last_anchor
            if last is None and self._retention is not None:
                # Asked for the first call after a batch has left: time passes between batches.
                self._retention.refuse_late()
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
        if self._retention is not None:
            self._retention.refuse_late()
        self._storing.await_room()
        with self._lock:
            for inner in contains:
                self._buffer.flush_for(inner)
            identifier = ids.object_id(self._buffer.next_id(), ids.PUT_INDEX)
        key = self._storing.value(identifier, parts, contains)
        if self._lifetimes is None:
            return ObjectRef(identifier)
        with self._lock:
            anchor = self._following.anchor(ids.unit_of(identifier))
            self._lifetimes.stored(ids.unit_of(identifier), key, contains)
        return ObjectRef(identifier, anchor)

    def escape(self, identifier: bytes, *, unseen: bool) -> None:
        """A ref leaves the process: store the batch that makes its value."""
        with self._lock:
            self._buffer.flush_for(identifier)
            if unseen and self._lifetimes is not None:
                self._lifetimes.pin(ids.unit_of(identifier))
        self._storing.wait([ids.unit_of(identifier)])

    def flush_for(self, refs: Sequence[ObjectRef[Any]], deadline_s: float | None) -> None:
        """Store all calls. That there is no room for some concerns only who waits for those."""
        waited_s = 0.0
        while True:
            with self._lock:
                try:
                    self._buffer.flush()
                except ObjectStoreFullError:
                    units = {ids.unit_of(ref.id) for ref in refs}
                    concerns = any(self._buffer.is_open(unit) for unit in units)
                    if not concerns or (deadline_s is not None and time.monotonic() >= deadline_s):
                        return
                    if waited_s >= ROOM_S:
                        raise
                except StoreError as error:
                    if self._waiting.hopeless:
                        raise RaySystemError(self._waiting.hopeless) from error
                    raise
                else:
                    return
            # What runs may end, and make room.
            self._waiting.listen(ROOM_LOOK_S)
            waited_s += ROOM_LOOK_S

    def flush_what_fits(self) -> None:
        """Store calls; whoever waits for those that there is no room for is told so."""
        with contextlib.suppress(ObjectStoreFullError):
            self._buffer.flush()

    def flush_if_due(self) -> bool:
        """Store buffers that have stopped growing or waited long; whether any calls waited."""
        waiting = len(self._buffer)
        if self._linger.is_over(waiting):
            self.flush_what_fits()
        return bool(waiting)

    def let_go(self) -> None:
        """Keep no batch for the calls that may be added to it: refs alone keep it."""
        self._last_anchor = None

    def flush(self) -> None:
        """Store everything that has been submitted, and wait until it is."""
        with self._lock:
            self._buffer.flush()
        self._storing.wait(None)

    def _limit_of(self, function: str) -> int:
        return self._serving.limit_of(function, self._buffer.submitted.get(function, 0))

    def _store_batch(self, name: QueueName, batch: Batch) -> None:
        self._last_anchor = None
        self._storing.batch(name, batch, adding=self._buffer.adding_to == name.batch)
