"""The current client: how refs and remote functions reach the cluster without importing it.

Whoever joins a cluster registers a client here: the driver's talks to the store, an executor's
to its agent. Nothing below this layer needs to know which.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from cloudray.refs import ObjectRef


class Anchor:
    """Lives as long as any ref to the values of one batch does, in this process.

    One object per batch, not one per ref, tells a client when it may forget a batch. All
    anchors are equal, so that refs compare by their ids alone.
    """

    __slots__ = ("__weakref__", "_batch", "_forget")

    def __init__(self, batch: bytes, forget: Callable[[bytes], None]) -> None:
        self._batch = batch
        self._forget = forget

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(None)

    def __del__(self) -> None:
        self._forget(self._batch)


class Client(Protocol):
    """What the public face needs from a process's connection to its cluster."""

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

    def store_value(self, parts: Sequence[Any]) -> bytes:
        """Store a serialized value under a new object id, and return the id."""

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

    def escape(self, identifier: bytes) -> None:
        """Make sure that what this id names has been stored."""

    def anchor(self, identifier: bytes) -> Anchor | None:
        """What refs to this id's batch keep alive here."""

    def nodes(self) -> list[dict[str, Any]]:
        """One dictionary per agent, with Ray's keys."""

    def identity(self) -> dict[str, Any]:
        """Facts for `get_runtime_context`."""


_client: Client | None = None
_connect: Callable[[], Client] | None = None
_noting = threading.local()
_inherited: Mapping[str, str] = {}


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

    __slots__ = ("_outer", "ids")

    def __init__(self) -> None:
        self.ids: list[bytes] = []

    def __enter__(self) -> list[bytes]:
        self._outer: list[bytes] | None = getattr(_noting, "ids", None)
        _noting.ids = self.ids
        return self.ids

    def __exit__(self, *_: object) -> None:
        _noting.ids = self._outer


def note_contained(identifier: bytes) -> None:
    """A ref is being pickled: note it for the value that contains it, or let it escape."""
    collecting: list[bytes] | None = getattr(_noting, "ids", None)
    if collecting is not None:
        collecting.append(identifier)
    else:
        escape(identifier)


def escape(identifier: bytes) -> None:
    """A ref is leaving this process: what it names must be stored first."""
    if _client is not None:
        _client.escape(identifier)


def anchor(identifier: bytes) -> Anchor | None:
    """The anchor for a ref that comes from elsewhere."""
    return None if _client is None else _client.anchor(identifier)
