"""What a world of the model is: a few processes, a few batches, and what may go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from cloudray import ids
from cloudray.protocol.records import Batch, Shape, Task
from cloudray.store import layout
from cloudray.store.layout import QueueName

if TYPE_CHECKING:
    from tests.model.processes import Process

JOB = bytes(ids.ID_BYTES)
KLASS = "py311-cpu1-m0"
DAYS = 7


def prefix_of(tag: str) -> bytes:
    """How the ids of a process's batches begin."""
    return ids.batch_prefix(DAYS, JOB, tag.encode().rjust(ids.ID_BYTES))


def root_batch(size: int, *, max_retries: int = 3) -> Batch:
    """A batch as a driver submits it."""
    shape = Shape("", "task", 1, {"CPU": 10_000}, max_retries)
    return Batch(ids.batch_id(prefix_of("driver"), 0), (shape,), tuple([Task(0)] * size))


def name_of(batch: Batch) -> QueueName:
    """The queue entry of a batch."""
    return QueueName(KLASS, 5, batch.id, len(batch.tasks), 0)


def named(stem: str) -> QueueName:
    """The queue entry that a stem names."""
    name = layout.parse_stem(stem)
    if name is None:
        message = f"{stem} names no batch"
        raise ValueError(message)
    return name


def pack(batch: Batch) -> bytes:
    """A batch as something hashable."""
    return msgspec.msgpack.encode(batch)


def unpack(packed: bytes) -> Batch:
    """The inverse of `pack`."""
    return msgspec.msgpack.decode(packed, type=Batch)


class Budget(NamedTuple):
    """How much may yet go wrong, or be chosen, in a world; each use takes one away."""

    #: processes that die before their next write, or with it in flight
    crashes: int = 0
    #: creates whose answer is lost, or not the truth
    losses: int = 0
    #: claims that are taken although their holder lives: leases that expire too early
    takeovers: int = 0
    #: times that an agent gives half of its tasks away
    gifts: int = 0
    #: times that an agent gives a batch back
    returns: int = 0
    #: executors that die under a task
    deaths: int = 0
    #: times that an agent doubts its lease, and reads whether it was taken over
    doubts: int = 0

    def less(self, field: str) -> Budget:
        """What is left after one use."""
        return self._replace(**{field: getattr(self, field) - 1})


class World(NamedTuple):
    """A small world."""

    processes: tuple[Process, ...]
    #: the batch whose tasks must all get a final word
    root: Batch
    budget: Budget
    #: whether a create may also be told a false no, beside no answer at all
    lies: bool = False


class Target(msgspec.Struct, frozen=True):
    """A claim that an agent could try to create."""

    name: QueueName
    number: int
    #: who holds the claim before it; empty when nobody does
    holder: str = ""
    #: the packed batch, when the bell that named it brought it along
    carried: bytes | None = None


class Violation(Exception):
    """An invariant does not hold: `kind` is its short name, `at` one state or two."""

    def __init__(self, kind: str, message: str, at: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.kind = kind
        self.at = at
