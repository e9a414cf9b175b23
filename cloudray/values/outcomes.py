"""From a final word to what the caller sees: a value, or an exception raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cloudray import ids
from cloudray.context import Anchor
from cloudray.exceptions import (
    GetTimeoutError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)
from cloudray.refs import ObjectRef
from cloudray.store.envelope import HEADER_BYTES
from cloudray.values.codec import Buffer, dumps, loads, loads_from, local_path
from cloudray.values.inspect import not_unpickled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

#: The numbers of `protocol.records.Verb` that a final word may have.
DONE, FAILED, CANCELLED = 1, 2, 3


class Outcome(msgspec.Struct, frozen=True):
    """How a task ended, as far as one of its refs is concerned."""

    #: DONE, FAILED or CANCELLED
    verb: int
    #: the serialized value or exception
    payload: Buffer
    identifier: bytes = b""

    @property
    def is_error(self) -> bool:
        """Whether asking for the value raises."""
        return self.verb != DONE


def load(payload: Buffer) -> Any:
    """A serialized value, in memory or in a local file."""
    path = local_path(payload)
    return loads(payload) if path is None else loads_from(path, HEADER_BYTES)


def value_of(outcome: Outcome) -> Any:
    """The value; raises what the task raised, or what became of it.

    Raises `RaySystemError` for a value that cannot be unpickled here.
    """
    if outcome.verb == DONE:
        try:
            return load(outcome.payload)
        except (RayError, MemoryError):
            raise
        except Exception as problem:  # noqa: BLE001 - the user's classes may raise anything
            which = f"the value of ObjectRef({outcome.identifier.hex()})"
            raised = not_unpickled(which, "in this process", problem)
            raise raised from raised.__cause__
    if outcome.verb == CANCELLED:
        raise TaskCancelledError(outcome.identifier[: ids.BATCH_ID_BYTES + 2].hex())
    error = load(outcome.payload)
    if isinstance(error, RayTaskError):
        raise error.as_instanceof_cause()
    raise error


def error_payload(error: BaseException) -> bytes:
    """An exception of ours as a FAILED word carries it."""
    return dumps(error, type(error).__name__).to_bytes()


def settle(future: Future[Any], outcome: Outcome) -> None:
    """End a future with a value or an error."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = value_of(outcome)
    except Exception as error:  # noqa: BLE001 - it is the future's to carry
        future.set_exception(error)
    else:
        future.set_result(value)


def refs_of(batch: bytes, index: int, num_returns: int, anchor: Anchor | None = None) -> Any:
    """The refs of a call, as `.remote()` returns them: one, a list, or None for none."""
    if num_returns == 1:
        return ObjectRef(batch + index.to_bytes(2, "big") + b"\0\0", anchor)
    if num_returns == 0:
        return None
    return [ObjectRef(ids.object_id(batch, index, number), anchor) for number in range(num_returns)]


def timed_out(pending: Sequence[ObjectRef[Any]], timeout_s: float) -> RayError:
    """The error of a `get` whose time is up."""
    return GetTimeoutError(pending=[repr(ref) for ref in pending], timeout_s=timeout_s)
