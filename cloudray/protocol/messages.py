"""What travels over an agent's Unix socket: frames of msgpack, each a tagged record.

Between an agent and its executors this is the only path; between a driver and an agent these
are hints, and everything still finishes when they are lost.
"""

from __future__ import annotations

import msgspec

from cloudray.protocol.records import Batch, Entry, Job, Shape
from cloudray.store.layout import QueueName
from cloudray.store.room import RoomSpec


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# -- driver to agent -----------------------------------------------------------------------


class Attach(_Message, frozen=True):
    """A driver: tell me what you publish and print for this job."""

    job: bytes
    want_logs: bool
    #: the job's retention class
    days: int = 7


class Ring(_Message, frozen=True):
    """New batches are in the queue."""

    names: tuple[QueueName, ...]


class Look(_Message, frozen=True):
    """Somebody else has written into the journals of these batches."""

    batches: tuple[bytes, ...]


# -- agent to driver -----------------------------------------------------------------------


class Greeting(_Message, frozen=True):
    """The agent is ready."""

    agent: str
    total: dict[str, int]


class Published(_Message, frozen=True):
    """A batch's journal has entries below `next`; `entry` is the last of them, if it is small."""

    batch: bytes
    next: int
    entry: Entry | None = None
    #: all tasks of the batch have ended
    complete: bool = False


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A line that a task printed."""

    name: str
    pid: int
    text: str
    is_error: bool


class Printed(_Message, frozen=True):
    """Lines that tasks of the attached job printed."""

    job: bytes
    lines: tuple[Line, ...]


class Unschedulable(_Message, frozen=True):
    """No live agent can ever run tasks of the attached job that are called so."""

    name: str
    #: what they ask for: resource name -> ten-thousandths of a unit
    demand: dict[str, int]
    #: what the agent has that comes nearest to it
    largest: dict[str, int]
    #: the tag of the Python version that they need, when no agent runs that; else empty
    python: str = ""


# In an embedded cluster the driver frees what nothing names (see `driver.lifetimes`), so it is
# told of every ref that executors have. Units are batches, or values stored by `put`.


class Begun(_Message, frozen=True):
    """An executor has submitted a batch, whose tasks name these units."""

    unit: bytes
    worker: str
    #: the executor has refs to its values
    held: bool
    names: tuple[bytes, ...]


class Kept(_Message, frozen=True):
    """An executor has stored a value, with refs to these units inside."""

    unit: bytes
    worker: str
    held: bool
    contains: tuple[bytes, ...]


class Valued(_Message, frozen=True):
    """Values of a batch contain refs to these units, or are objects at these keys: (id, key)."""

    unit: bytes
    contains: tuple[bytes, ...]
    objects: tuple[tuple[bytes, str], ...] = ()


class Handled(_Message, frozen=True):
    """What an executor said in `Handles`."""

    worker: str
    taken: tuple[bytes, ...]
    dropped: tuple[bytes, ...]
    pinned: tuple[bytes, ...]


class Left(_Message, frozen=True):
    """An executor has ended, and its refs with it."""

    worker: str


# -- agent to executor ---------------------------------------------------------------------


class Setup(_Message, frozen=True):
    """The first frame that an executor gets."""

    job: Job
    days: int
    node: str
    #: where files are written that the agent adopts into the store
    room: RoomSpec
    log: str
    #: tell which refs are held, as values that nobody names are freed
    counting: bool = False
    #: the executor's own working directory; empty: the driver's, where there is one
    working_dir: str = ""
    #: where modules are looked for before anything else
    path: tuple[str, ...] = ()


class Learn(_Message, frozen=True):
    """A function, under the number by which calls will name it."""

    number: int
    shape: Shape
    pickled: bytes


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One attempt of one task."""

    ticket: int
    #: the number of a learned function
    function: int
    #: batch id and index
    place: bytes
    claim: int
    attempt: int
    depth: int
    arguments: bytes = b""
    #: values of the task's top-level refs, in the order of their placeholders
    values: tuple[bytes, ...] = ()


class Run(_Message, frozen=True):
    """Run these calls one after the other."""

    calls: tuple[Call, ...]


class Recall(_Message, frozen=True):
    """Return the calls that have not started."""


class Interrupt(_Message, frozen=True):
    """Stop this call if it is the one that runs."""

    ticket: int
    #: its time is over: it fails with `TaskTimeoutError`
    timed_out: bool = False


class Resolved(_Message, frozen=True):
    """The outcomes of wanted refs: (object id, verb, payload)."""

    outcomes: tuple[tuple[bytes, int, bytes], ...]


class Answer(_Message, frozen=True):
    """The answer to an `Ask`."""

    request: int
    payload: bytes


class Leave(_Message, frozen=True):
    """No more calls will come."""


# -- executor to agent ---------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """An executor has started."""

    token: str
    pid: int


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How one call ended."""

    ticket: int
    verb: int
    values: tuple[bytes, ...]
    duration_us: int
    contains: tuple[bytes, ...] = ()
    #: FAILED only: the exception is one that `retry_exceptions` allows to retry
    retryable: bool = False


class Outcomes(_Message, frozen=True):
    """Calls that have ended, in order."""

    outcomes: tuple[Outcome, ...]
    #: the executor takes no more calls (`max_calls`)
    leaving: bool = False


class Returned(_Message, frozen=True):
    """Calls that had not started and now never will here."""

    tickets: tuple[int, ...]


class Blocked(_Message, frozen=True):
    """The running call waits for a value: lend its slot."""

    blocked: bool


class Submit(_Message, frozen=True):
    """A batch that the running call submits."""

    klass: str
    priority: int
    estimated_ms: int
    batch: Batch
    #: there are refs to its values
    held: bool = True


class Blob(_Message, frozen=True):
    """A pickled function, or a package of code, that a batch to come names."""

    digest: str
    pickled: bytes
    package: bool = False


class Keep(_Message, frozen=True):
    """Make a spooled file the object of this id."""

    identifier: bytes
    path: str
    #: ids of the refs inside the value
    contains: tuple[bytes, ...] = ()


class Handles(_Message, frozen=True):
    """Units to which this executor has got its first ref, or lost its last one.

    It keeps those for good to which it let a ref get out of sight (`pinned`).
    """

    taken: tuple[bytes, ...]
    dropped: tuple[bytes, ...]
    pinned: tuple[bytes, ...] = ()


class Want(_Message, frozen=True):
    """Send the outcomes of these refs as they come."""

    identifiers: tuple[bytes, ...]


class Cancel(_Message, frozen=True):
    """Cancel the task behind a ref."""

    identifier: bytes
    force: bool
    #: the tasks that it submitted go with it
    recursive: bool = True


class Ask(_Message, frozen=True):
    """A question about the cluster, answered by `Answer` with the same number."""

    request: int
    what: str


Message = (
    Attach
    | Ring
    | Look
    | Greeting
    | Published
    | Printed
    | Unschedulable
    | Begun
    | Kept
    | Valued
    | Handled
    | Left
    | Setup
    | Learn
    | Run
    | Recall
    | Interrupt
    | Resolved
    | Answer
    | Leave
    | Ready
    | Outcomes
    | Returned
    | Blocked
    | Submit
    | Blob
    | Keep
    | Handles
    | Want
    | Cancel
    | Ask
)

#: Every message is preceded by its length.
_LENGTH_BYTES = 4
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """A frame: four bytes of length, then the message."""
    body = bytearray(_LENGTH_BYTES)
    _encoder.encode_into(message, body, _LENGTH_BYTES)
    body[:_LENGTH_BYTES] = (len(body) - _LENGTH_BYTES).to_bytes(_LENGTH_BYTES, "little")
    return bytes(body)


class Unpacker:
    """Cuts a byte stream into messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def halfway(self) -> bool:
        """Whether the rest of a message is still to come."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with these bytes."""
        rest = self._rest
        rest += data
        messages: list[Message] = []
        start = 0
        view = memoryview(rest)
        try:
            while len(rest) >= (body := start + _LENGTH_BYTES):
                end = body + int.from_bytes(view[start:body], "little")
                if end > len(rest):
                    break
                messages.append(_decoder.decode(view[body:end]))
                start = end
        finally:
            view.release()
        del rest[:start]
        return messages
