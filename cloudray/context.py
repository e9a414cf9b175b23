"""The current client: how refs and remote functions reach the cluster without importing it.

Whoever joins a cluster registers a client here: the driver's talks to the store, an executor's
to its agent. Nothing below this layer needs to know which.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from cloudray import departed, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from cloudray.refs import ObjectRef


class Anchor:
    """Lives as long as any ref to the values of one batch does, in this process.

    One object per batch, not one per ref, tells a client when it may forget a batch (see
    `Anchors`). All anchors are equal, so that refs compare by their ids alone.
    """

    __slots__ = ("__weakref__", "again", "gone")

    def __init__(self) -> None:
        #: values to which a ref is gone; for good, unless they are in `again`
        self.gone: set[bytes] = set()
        #: values to which there was more than one ref
        self.again: set[bytes] = set()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(None)


class _Watch(weakref.ref[Anchor]):
    """Sees an anchor go."""

    __slots__ = ("batch",)

    batch: bytes


class Anchors:
    """The anchors of one client, by batch, and a note of each that is gone.

    An anchor goes at any moment, on any thread: that only makes a note. With a `__del__`, another
    thread could find an anchor again whose end is noted already; a weak reference is cleared and
    noted at once.

    Not thread-safe, but for the notes: its client holds a lock.

    >>> anchors = Anchors()
    >>> anchor = anchors.make(b"batch")
    >>> del anchor
    >>> list(anchors.take_gone())
    [b'batch']
    """

    __slots__ = ("_notes", "_watches")

    def __init__(self) -> None:
        self._watches: dict[bytes, _Watch] = {}
        self._notes: deque[Any] = deque()

    def __contains__(self, batch: bytes) -> bool:
        """Whether there are refs to a batch."""
        return self.find(batch) is not None

    def find(self, batch: bytes) -> Anchor | None:
        """The anchor of a batch, if there are refs to it."""
        watch = self._watches.get(batch)
        return None if watch is None else watch()

    def make(self, batch: bytes) -> Anchor:
        """A new anchor for a batch that has none."""
        anchor = Anchor()
        # No Python code runs when it is told of an end: nothing comes between the two.
        watch = self._watches[batch] = _Watch(anchor, self._notes.append)
        watch.batch = batch
        return anchor

    @property
    def has_gone(self) -> bool:
        """Whether there are notes."""
        return bool(self._notes)

    def take_gone(self) -> Iterator[bytes]:
        """The batches to which there are no refs any more; each is said once."""
        while self._notes:
            watch: _Watch = self._notes.popleft()
            if self._watches.get(watch.batch) is watch:
                del self._watches[watch.batch]
                yield watch.batch


class Client(Protocol):
    """What the public face needs from a process's connection to its cluster."""

    #: what has been imported, where that goes along with calls: a function is made ready anew when
    #: more has been; None: nothing goes along unasked
    modules: Mapping[str, Any] | None

    def submit(
        self,
        call: Any,
        arguments: bytes,
        arguments_id: bytes,
        depends_on: tuple[bytes, ...],
        contains: tuple[bytes, ...],
    ) -> Any:
        """Queue one call of a prepared function; returns its ref, list of refs, or None."""

    def prepare(self, function: Any, options: Any) -> Any:
        """Upload a function once, and return what `submit` wants for its calls."""

    def store_value(self, parts: Sequence[Any], contains: tuple[bytes, ...]) -> ObjectRef[Any]:
        """Store a serialized value with these refs inside; returns the ref to it."""

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for values and return them, or raise the first error seen."""

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Split refs into ready and not ready, in the order given."""

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future for one value."""

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Ask that a task stops, or never starts."""

    def escape(self, identifier: bytes, *, unseen: bool) -> None:
        """Make sure that what this id names has been stored.

        `unseen`: the ref goes where nobody can count it, so its value is kept for good.
        """

    def anchor(self, identifier: bytes) -> Anchor | None:
        """What refs to this id's batch keep alive here; asked for every ref from elsewhere."""

    def describe(self, identifier: bytes) -> str:
        """What is known here of a value, in a few words; asks nobody and waits for nothing."""

    def nodes(self) -> list[dict[str, Any]]:
        """One dictionary per agent, with Ray's keys."""

    def code_of(self, options: Any) -> Any:
        """The packages of code that these options of a function ask for, stored."""

    def identity(self) -> dict[str, Any]:
        """Facts for `get_runtime_context`."""


_client: Client | None = None
_connect: Callable[[], Client] | None = None
_noting = threading.local()
_inherited: Mapping[str, str] = {}
_wishes: Any = None


def register(client: Client | None) -> None:
    """Make this the current client, or forget the current one."""
    global _client  # noqa: PLW0603 - the one current client is what this module is for
    _client = client


def on_first_use(connect: Callable[[], Client]) -> None:
    """Say what to do when a client is needed and there is none."""
    global _connect  # noqa: PLW0603 - see register
    _connect = connect


def inherit(env_vars: Mapping[str, str]) -> None:
    """Say which environment variables tasks have that are submitted from here."""
    global _inherited  # noqa: PLW0603 - see register
    _inherited = env_vars


def inherited() -> Mapping[str, str]:
    """The environment variables of the job (in a driver) or of the running task."""
    return _inherited


def wish(wishes: Any) -> None:
    """In a driver: say which code tasks need that are submitted from here; None: no more."""
    global _wishes  # noqa: PLW0603 - see register
    _wishes = wishes


def job_wishes() -> Any:
    """What `wish` was told last; None in an executor."""
    return _wishes


def current() -> Client | None:
    """The current client, if any."""
    return _client


def client() -> Client:
    """The current client; joins or starts a cluster when there is none yet."""
    if _client is not None:
        return _client
    if _connect is None:
        msg = "there is no cluster: call cloudray.init() first"
        raise RuntimeError(msg)
    return _connect()


class Contained:
    """Collects the ids of the refs that are pickled while it is open on this thread."""

    __slots__ = ("_outer", "ids", "refs")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        #: the refs themselves: one may have been made for the pickle, and nothing else names it
        self.refs: list[object] = []

    def __enter__(self) -> list[bytes]:
        self._outer: Contained | None = getattr(_noting, "open", None)
        _noting.open = self
        return self.ids

    def __exit__(self, *_: object) -> None:
        _noting.open = self._outer


def note_contained(identifier: bytes, ref: object = None) -> None:
    """A ref is being pickled: note it for the value that contains it, or let it escape."""
    collecting: Contained | None = getattr(_noting, "open", None)
    if collecting is not None:
        collecting.ids.append(identifier)
        collecting.refs.append(ref)
        return
    if departed.jobs:
        departed.refuse((identifier,))
    escape(identifier, unseen=True)


def escape(identifier: bytes, *, unseen: bool = False) -> None:
    """A ref is leaving this process: what it names must be stored first."""
    if _client is not None:
        _client.escape(identifier, unseen=unseen)


def describe(identifier: bytes) -> str:
    """What is known here of a value, in a few words."""
    if ids.job_of(identifier) in departed.jobs:
        return "closed cluster"
    return "no cluster" if _client is None else _client.describe(identifier)


def anchor(identifier: bytes) -> Anchor | None:
    """The anchor for a ref that comes from elsewhere."""
    return None if _client is None else _client.anchor(identifier)
