"""What is stored: frozen records, encoded as msgpack behind the header of `store.envelope`."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeVar

import msgspec

from cloudray.store import envelope
from cloudray.store.envelope import Kind

_R = TypeVar("_R")


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A file or folder as the driver's machine sees it."""

    path: str
    device: int
    inode: int


class Package(msgspec.Struct, frozen=True, array_like=True):
    """An archive of code among the blobs of its job, named by its content."""

    #: sha256 of the archive, in hexadecimal
    digest: str
    #: what it was made of, for messages: a folder, a file, a URL, module names
    source: str
    #: bytes of the archive
    size_bytes: int
    #: what it was made of, where a machine that sees the same files needs no copy; None for what
    #: is always copied
    seen: Seen | None = None


class Code(msgspec.Struct, frozen=True, array_like=True):
    """Code that executors need beside what is installed on their machine."""

    #: what becomes a task's working directory, where modules are looked for first
    working_dir: Package | None = None
    #: what else was asked for, in the order in which modules are looked for
    py_modules: tuple[Package, ...] = ()
    #: what went along unasked because the driver had imported it
    local: tuple[Package, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.working_dir or self.py_modules or self.local)

    @property
    def packages(self) -> tuple[Package, ...]:
        """All of them."""
        if self.working_dir is None:
            return self.py_modules + self.local
        return (self.working_dir, *self.py_modules, *self.local)


def fields_of(code: Code) -> dict[str, Any]:
    """Code as the fields of a runtime environment, for people."""
    fields: dict[str, Any] = {}
    if code.working_dir is not None:
        fields["working_dir"] = code.working_dir.source
    if code.py_modules:
        fields["py_modules"] = [package.source for package in code.py_modules]
    return fields


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
    #: what executors need to be able to import
    code: Code = Code()


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


#: The index of a word that is said of all tasks of a batch at once: its job has ended.
EVERY_TASK = 0xFFFF


#: What CANCELLED may add: the process of a running task is killed, and those of its children ...
FORCE = b"force"
#: ... or its children, the tasks that it submitted, are left alone.
ALONE = b"alone"


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One thing said about one task."""

    #: of the task in its batch, or `EVERY_TASK`
    index: int
    verb: Verb
    #: DONE: the serialized values; FAILED: the serialized error; MOVED: batch id + index;
    #: CANCELLED: any of `FORCE` and `ALONE`
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
    #: what its user calls it; need not be unique
    name: str = ""
    #: 10 bytes: the submitter of the batches that the driver itself submits
    submitter: bytes = b""


class Ending(msgspec.Struct, frozen=True, array_like=True):
    """That a job is over for good: nothing of it may be run or written any more."""

    #: UTC seconds, by the store's clock where it tells
    at_s: float
    #: completes "the value is lost: ..."
    reason: str
    #: what the job was called
    name: str = ""


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
    #: what whoever started it says of its machine, e.g. its zone
    labels: dict[str, str] = {}
    #: the version of CloudRay that it runs
    version: str = ""
    #: how many stored records it has refused because the cluster's key has not signed them
    refused: int = 0


class Cluster(msgspec.Struct, frozen=True):
    """Settings that everyone in a cluster must share."""

    heartbeat_s: float
    lease_s: float
    commit_s: float
    #: how often an agent that hears no bell scans the queue
    scan_s: float
    #: the cluster ends with its only driver, so values that nothing names are freed
    ephemeral: bool = False
    #: which key signs its records (`keyring.ClusterKey.id`); empty where none does
    key_id: str = ""
    #: the URL of the SQS queue that rings agents; empty where the bucket's own bell does
    sqs: str = ""
    #: where there is a queue: names this cluster in its messages, and no other
    id: str = ""
    #: the store was found to honour put-if-absent before this was written
    probed: bool = False


_encoder = msgspec.msgpack.Encoder()
_KINDS: dict[type, Kind] = {
    Batch: Kind.BATCH,
    Claim: Kind.CLAIM,
    Entry: Kind.JOURNAL,
    Job: Kind.JOB,
    Ending: Kind.ENDING,
    Heartbeat: Kind.HEARTBEAT,
    Cluster: Kind.CLUSTER,
}
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in _KINDS
}


def seal(record: Batch | Claim | Entry | Job | Ending | Heartbeat | Cluster) -> bytes:
    """A record as it is stored, under a fresh nonce."""
    return envelope.seal(_KINDS[type(record)], _encoder.encode(record))


def unseal(kind: type[_R], body: bytes, key: str) -> _R:
    """The record in a stored body; raises `RecordError`, naming `key`, when it is not one."""
    payload = envelope.open_sealed(_KINDS[kind], body, key)
    try:
        return _decoders[kind].decode(payload)  # type: ignore[return-value]
    except (msgspec.MsgspecError, RecursionError, MemoryError) as error:
        raise envelope.RecordError(f"{key} does not hold a {kind.__name__}: {error}") from error
