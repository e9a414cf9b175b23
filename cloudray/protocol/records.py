"""What is stored: frozen records, encoded as msgpack behind the header of `store.envelope`."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import msgspec

from cloudray.store import envelope
from cloudray.store.envelope import Kind

_R = TypeVar("_R")


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """What the tasks of one function with the same options have in common."""

    #: sha256 of the pickled function, in hexadecimal
    function: str
    #: what to call the task in messages and logs
    name: str
    #: how many values it returns
    num_returns: int
    #: resource name -> ten-thousandths of a unit
    demand: dict[str, int]
    #: attempts after the first that a crash (or a retryable exception) may cost; -1: no limit
    max_retries: int = 3
    #: False: exceptions are final; True: any may be retried; bytes: a pickled tuple of classes
    retry_exceptions: bool | bytes = False
    #: an executor leaves after this many calls of the function; 0: never
    max_calls: int = 0
    #: environment variables of the executor
    env_vars: dict[str, str] = {}
    #: the function's own name, whatever the task is called
    function_name: str = ""
    #: an attempt that runs longer is stopped, and the task fails; 0: no limit
    timeout_s: float = 0.0
    #: whether an attempt that was stopped so may be retried, at the cost of `max_retries`
    retry_timeouts: bool = False


class Task(msgspec.Struct, frozen=True, array_like=True):
    """One call."""

    #: index into the batch's shapes
    shape: int
    #: serialized positional and keyword arguments, with placeholders for `depends_on`
    arguments: bytes = b""
    #: the object that holds the arguments when they are too large to travel; empty otherwise
    arguments_id: bytes = b""
    #: ids of the refs passed at top level, in the order of their placeholders
    depends_on: tuple[bytes, ...] = ()
    #: ids of the refs inside the arguments
    contains: tuple[bytes, ...] = ()
    #: where a task that was given away stood before: batch id and index; empty otherwise
    origin: bytes = b""


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """The attempt that submitted a batch, when a task did."""

    batch: bytes
    index: int
    claim: int
    attempt: int


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Tasks that travel together; the unit of submission and claim."""

    #: 25 bytes
    id: bytes
    shapes: tuple[Shape, ...]
    tasks: tuple[Task, ...]
    #: 0 for the driver's, one more than their parent's for those that a task submits
    depth: int = 0
    parent: Parent | None = None

    @property
    def once(self) -> bool:
        """Whether its only task has `max_retries=0`, so that starting it needs a permission."""
        return len(self.tasks) == 1 and self.shapes[self.tasks[0].shape].max_retries == 0


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A lease on a batch. Naming nobody (an empty agent) gives the batch back."""

    agent: str


class Verb(IntEnum):
    """What a word in a journal says of a task."""

    #: it runs, or is about to: (claim, attempt)
    STARTED = 0
    #: final: its values
    DONE = 1
    #: final: its error
    FAILED = 2
    #: final: it never was
    CANCELLED = 3
    #: it is another batch's now; decides here, and is not final
    MOVED = 4


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One thing said about one task."""

    index: int
    verb: Verb
    #: DONE: the serialized values; FAILED: the serialized error; MOVED: batch id + index
    values: tuple[bytes, ...] = ()
    #: which attempt under the entry's claim says so
    attempt: int = 0
    #: ids of the refs inside the values
    contains: tuple[bytes, ...] = ()


class Duration(msgspec.Struct, frozen=True, array_like=True):
    """How long calls of one function took, so that submitters can size their batches."""

    function: str
    calls: int
    total_us: int


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A journal entry: what one writer says at one number."""

    #: the claim under which it is said; 0 for those who hold none (a cancelling driver)
    claim: int
    words: tuple[Word, ...]
    durations: tuple[Duration, ...] = ()


class Job(msgspec.Struct, frozen=True, array_like=True):
    """Who submits, and how executors for this job start."""

    #: 10 bytes
    id: bytes
    python: str
    host: str
    pid: int
    #: UTC seconds
    started_at: float
    #: entries for the executors' `sys.path`
    sys_path: tuple[str, ...]
    #: the driver's working directory
    cwd: str
    namespace: str = ""


class Heartbeat(msgspec.Struct, frozen=True, array_like=True):
    """An agent's sign of life; its body changes at every beat."""

    agent: str
    beat: int
    host: str
    pid: int
    #: path of its Unix socket, reachable from the same machine
    socket: str
    #: resource name -> ten-thousandths of a unit
    total: dict[str, int]
    free: dict[str, int]
    draining: bool = False
    #: whether it has nothing to do
    idle: bool = True
    #: the tag of the Python version of its executors
    python: str = ""


class Cluster(msgspec.Struct, frozen=True):
    """Settings that everyone in a cluster must share."""

    heartbeat_s: float
    lease_s: float
    commit_s: float
    #: how often an agent that hears no bell scans the queue
    scan_s: float
    #: the cluster ends with its only driver, so values that nothing names are freed
    ephemeral: bool = False


_encoder = msgspec.msgpack.Encoder()
_KINDS: dict[type, Kind] = {
    Batch: Kind.BATCH,
    Claim: Kind.CLAIM,
    Entry: Kind.JOURNAL,
    Job: Kind.JOB,
    Heartbeat: Kind.HEARTBEAT,
    Cluster: Kind.CLUSTER,
}
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in _KINDS
}


def seal(record: Batch | Claim | Entry | Job | Heartbeat | Cluster) -> bytes:
    """A record as it is stored, under a fresh nonce."""
    return envelope.seal(_KINDS[type(record)], _encoder.encode(record))


def unseal(kind: type[_R], body: bytes, key: str) -> _R:
    """The record in a stored body; raises `RecordError`, naming `key`, when it is not one."""
    payload = envelope.open_sealed(_KINDS[kind], body, key)
    try:
        return _decoders[kind].decode(payload)  # type: ignore[return-value]
    except msgspec.MsgspecError as error:
        raise envelope.RecordError(f"{key} does not hold a {kind.__name__}: {error}") from error
