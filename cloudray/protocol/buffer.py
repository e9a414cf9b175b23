"""Calls that have been made but not stored yet, grouped into open batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from cloudray import ids
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol.batching import MAX_BATCH_BYTES
from cloudray.protocol.records import Batch, Parent, Shape, Task
from cloudray.store.layout import QueueName


class Prepared(msgspec.Struct, frozen=True):
    """A function with its options, ready to be called: what all of its calls share."""

    shape: Shape
    klass: str
    priority: int
    once: bool
    #: the exact demand, sorted: tasks of one batch ask for the same, so that whoever can run one
    #: of them can run them all, and none is held up by a batchmate that fits nowhere
    demand: tuple[tuple[str, int], ...] = ()


#: Calls are stored at the latest after so many ticks, however fast more of them come.
_LINGER_TICKS = 6


class Linger:
    """How long calls wait for company: until no more come, but not for ever.

    Its owner asks at every tick, which are a few milliseconds apart.
    """

    __slots__ = ("_seen", "_ticks")

    def __init__(self) -> None:
        self._seen = 0
        self._ticks = 0

    def is_over(self, waiting: int) -> bool:
        """Whether so many waiting calls have waited long enough, and are to be stored now."""
        self._ticks += 1
        over = waiting > 0 and (waiting == self._seen or self._ticks >= _LINGER_TICKS)
        self._seen = waiting
        if over or not waiting:
            self._seen = self._ticks = 0
        return over


#: What calls must have in common to travel together: class, priority, demand.
_Group = tuple[str, int, tuple[tuple[str, int], ...]]


def _group_of(call: Prepared) -> _Group:
    return call.klass, call.priority, call.demand


class _OpenBatch:
    __slots__ = ("group", "id", "needs", "shapes", "size_bytes", "tasks", "weight")

    def __init__(self, batch_id: bytes, group: _Group) -> None:
        self.id = batch_id
        self.group = group
        self.tasks: list[Task] = []
        self.shapes: dict[int, tuple[int, Shape]] = {}
        self.size_bytes = 0
        #: 1 when full: each task weighs one part in its function's limit
        self.weight = 0.0
        #: open batches that must be stored before this one
        self.needs: dict[_OpenBatch, None] = {}

    def reaches(self, other: _OpenBatch) -> bool:
        return self is other or any(need.reaches(other) for need in self.needs)


class SubmitBuffer:
    """One submitter's open batches, and the order in which they must be stored.

    A batch names only refs of batches stored before it, or of its own earlier tasks: flushing
    one flushes first what it needs, and a ref that would close a cycle between two open batches
    flushes the other one at once. So batches form no cycle, and no stored ref dangles.

    Not thread-safe: its client holds a lock.
    """

    def __init__(
        self,
        prefix: bytes,
        store: Callable[[QueueName, Batch], None],
        limit_of: Callable[[str], int],
        mean_us_of: Callable[[str], float | None],
        *,
        depth: int = 0,
        parent: Parent | None = None,
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._limit_of = limit_of
        self._mean_us_of = mean_us_of
        self._depth = depth
        self._parent = parent
        self._number = 0
        self._open: dict[_Group, _OpenBatch] = {}
        self._unstored: dict[bytes, _OpenBatch] = {}
        #: the batch that a call is being added to, while that makes it leave at once
        self.adding_to: bytes | None = None
        #: calls taken in so far, by function
        self.submitted: dict[str, int] = {}

    def __len__(self) -> int:
        """How many calls are waiting to be stored."""
        return sum(len(batch.tasks) for batch in self._unstored.values())

    def is_open(self, batch: bytes) -> bool:
        """Whether a batch waits to be stored."""
        return batch in self._unstored

    def next_id(self) -> bytes:
        """A batch-sized id under this submitter that nothing else has."""
        number = self._number
        self._number = number + 1
        return ids.batch_id(self._prefix, number)

    def add(
        self,
        call: Prepared,
        arguments: bytes,
        arguments_id: bytes,
        depends_on: tuple[bytes, ...],
        contains: tuple[bytes, ...],
    ) -> tuple[bytes, int]:
        """Take in a call; returns the batch it goes with and its index there."""
        batch = self._open.get((call.klass, call.priority, call.demand))
        if call.once or batch is None:
            batch = self._new_batch(call, keep_open=not call.once)
        if depends_on or contains:
            batch = self._order(batch, call, depends_on, contains)
        shape = call.shape
        key = id(shape)
        known = batch.shapes.get(key)
        if known is None:
            known = batch.shapes[key] = (len(batch.shapes), shape)
        # Made first: a finalizer that runs meanwhile may add a call of its own.
        task = Task(known[0], arguments, arguments_id, depends_on, contains)
        index = len(batch.tasks)
        batch.tasks.append(task)
        batch.size_bytes += len(arguments)
        submitted = self.submitted
        submitted[shape.function] = submitted.get(shape.function, 0) + 1
        batch.weight += 1 / self._limit_of(shape.function)
        if call.once or batch.weight >= 1 - 1e-9 or batch.size_bytes >= MAX_BATCH_BYTES:
            self.adding_to = batch.id
            try:
                self._flush(batch)
            except ObjectStoreFullError:
                # Nothing was stored. Who makes this call is told so; earlier ones are tried again.
                self._take_back(batch, shape.function)
                raise
            finally:
                self.adding_to = None
        return batch.id, index

    def flush(self) -> None:
        """Store everything, in an order in which no ref dangles.

        What there is no room for is kept, to be tried again; in the end raises
        `ObjectStoreFullError`.
        """
        trouble: ObjectStoreFullError | None = None
        for batch in list(self._unstored.values()):
            try:
                self._flush(batch)
            except ObjectStoreFullError as full:
                trouble = full
        if trouble is not None:
            raise trouble

    def flush_for(self, identifier: bytes) -> None:
        """Store the batch that an id names, if it is not stored yet."""
        batch = self._unstored.get(ids.unit_of(identifier))
        if batch is not None:
            self._flush(batch)

    def _take_back(self, batch: _OpenBatch, function: str) -> None:
        """The last call of a batch is not made after all."""
        task = batch.tasks.pop()
        batch.size_bytes -= len(task.arguments)
        self.submitted[function] -= 1
        if not batch.tasks:
            del self._unstored[batch.id]

    def _new_batch(self, call: Prepared, *, keep_open: bool) -> _OpenBatch:
        batch = _OpenBatch(self.next_id(), _group_of(call))
        self._unstored[batch.id] = batch
        if keep_open:
            self._open[batch.group] = batch
        return batch

    def _order(self, batch: _OpenBatch, call: Prepared, *references: Iterable[bytes]) -> _OpenBatch:
        for identifiers in references:
            for identifier in identifiers:
                other = self._unstored.get(ids.unit_of(identifier))
                if other is None or other is batch:
                    continue
                if other.reaches(batch):
                    self._flush(other)
                    if batch.id not in self._unstored:
                        batch = self._new_batch(call, keep_open=not call.once)
                else:
                    batch.needs[other] = None
        return batch

    def _flush(self, batch: _OpenBatch) -> None:
        if batch.id not in self._unstored:
            return
        if self._open.get(batch.group) is batch:
            del self._open[batch.group]
        for need in list(batch.needs):
            self._flush(need)
        batch.needs.clear()
        if batch.tasks:
            self._store(self._name(batch), self._record(batch))
        del self._unstored[batch.id]

    def _record(self, batch: _OpenBatch) -> Batch:
        shapes = tuple(shape for _, shape in batch.shapes.values())
        return Batch(batch.id, shapes, tuple(batch.tasks), self._depth, self._parent)

    def _name(self, batch: _OpenBatch) -> QueueName:
        shapes = [shape for _, shape in batch.shapes.values()]
        estimated_us = 0.0
        for task in batch.tasks:
            estimated_us += self._mean_us_of(shapes[task.shape].function) or 0.0
        size = len(batch.tasks)
        klass, priority, _ = batch.group
        return QueueName(klass, priority, batch.id, size, int(estimated_us / 1000))
