"""The seam between CloudRay and object storage: a few operations, each a record.

A backend implements one method, `Store.perform`, and (when it can do better than
blocking) its twin `perform_async`. Wrappers that count, inject faults or retry wrap that one
method. The protocol never holds a store at all: its procedures are generators that *yield*
these operations and are sent the answers, so the same code runs on threads, on an event loop,
and in the exhaustive model under `tests/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloudray.exceptions import ObjectStoreFullError

if TYPE_CHECKING:
    from cloudray.store.room import Room
    from cloudray.store.signing import Signature

Buffer = bytes | bytearray | memoryview
#: What a put accepts: one buffer, or several that are written one after the other.
Body = Buffer | Sequence[Buffer]


class Entry(msgspec.Struct, frozen=True):
    """One line of a listing."""

    key: str
    size_bytes: int
    #: Changes whenever the object changes; opaque otherwise.
    etag: str
    #: When it was written by the store's own clock, in whole UTC seconds; None: it does not tell.
    modified_s: int | None = None


class Tagged(msgspec.Struct, frozen=True):
    """What was read, and the ETag by which `GetIfChanged` knows it again."""

    body: bytes
    etag: str


class Unchanged(Enum):
    """The answer of `GetIfChanged` that there is nothing new."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class Put(msgspec.Struct, frozen=True):
    """Write an object, replacing what was there. The answer is None."""

    key: str
    body: Body


class Create(msgspec.Struct, frozen=True):
    """Put-if-absent, the only coordination primitive.

    From a `Reliable` store the answer is None when this body holds the key, else the body
    that holds it. From a raw backend the answer is True (written) or False (it said no: which
    may still mean that an earlier attempt of ours was written).
    """

    key: str
    body: Body


class Get(msgspec.Struct, frozen=True):
    """Read an object, or the bytes `[start, end)` of it. The answer is None when absent."""

    key: str
    start: int | None = None
    end: int | None = None


class GetMany(msgspec.Struct, frozen=True):
    """Read several objects at once: a list of bytes or None, in the order of the keys."""

    keys: tuple[str, ...]
    #: of each only the bytes before this one; None: all
    end: int | None = None


class GetIfChanged(msgspec.Struct, frozen=True):
    """Read an object unless its ETag is still `etag` (empty: read it anyway).

    The answer is None when absent, `UNCHANGED`, or the body with its ETag (`Tagged`).
    """

    key: str
    etag: str = ""
    #: only the bytes before this one; None: all
    end: int | None = None


class Head(msgspec.Struct, frozen=True):
    """Size and ETag of one object (an `Entry`), or None when absent."""

    key: str


class List(msgspec.Struct, frozen=True):
    """Up to `limit` entries whose keys begin with `prefix` and sort after `after`, in order.

    A page shorter than `limit` is the last one.
    """

    prefix: str
    after: str = ""
    limit: int = 1000


class Delete(msgspec.Struct, frozen=True):
    """Delete many objects; absent ones are no error. The answer is None."""

    keys: tuple[str, ...]


class Adopt(msgspec.Struct, frozen=True):
    """Make the file at `path` the object `key`, and remove the file. The answer is None.

    A directory store links it into place; other stores upload it.
    """

    key: str
    path: Path


Op = Put | Create | Get | GetMany | GetIfChanged | Head | List | Delete | Adopt


class StoreError(Exception):
    """The store could not be used: the message says which operation, on which key, and why."""


class TransientStoreError(StoreError):
    """The request failed in a way that may pass (409, 429, 5xx, a lost connection).

    A write that raised it may nevertheless have happened.
    """

    #: it passes only when somebody does what the message says
    needs_somebody: bool = False


class CredentialsError(TransientStoreError):
    """The credentials have expired, or cannot be had now: somebody must renew them.

    The message says how. The store is used again as soon as they work.
    """

    needs_somebody = True


class ClockError(TransientStoreError):
    """The store refuses what a machine asks whose clock is wrong; the message says by how much."""

    needs_somebody = True


class RefusedError(StoreError):
    """The store refuses whoever asks, whatever he asks: no such bucket, or no permission."""


class MissingBucketError(RefusedError):
    """There is no bucket, or container, where the URL says."""


class StoreFullError(StoreError, ObjectStoreFullError):
    """There is no room for what should be written: the message says where, and what to do.

    Nothing was written. Users catch it as `ObjectStoreFullError`.
    """

    #: there would be no room either if nothing else were stored
    hopeless: bool = False


class Store(ABC):
    """Object storage under one prefix. Keys are relative to `url`."""

    #: Where this store is, as a user would type it.
    url: str
    #: True when `perform` returns within microseconds, so that an event loop may call it.
    inline: bool = False
    #: Where files of large values are written before they are adopted; None where that is up to
    #: whoever writes them.
    room: Room | None = None

    @abstractmethod
    def perform(self, op: Op) -> Any:
        """Perform one operation now, blocking, and return its answer."""

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation without blocking the event loop."""
        return self.perform(op)

    def path(self, key: str) -> Path | None:
        """The local file that *is* this object, when there is one to map."""
        return None

    def signature(self, key: str) -> Signature | None:
        """What signs or checks a record that travels in parts; None where that is not done."""
        return None

    def refusals(self) -> Mapping[str, str]:
        """By key, what was wrong with records that were not loaded."""
        return {}

    def close(self) -> None:  # noqa: B027 - most stores hold nothing open
        """Release connections and descriptors. Idempotent."""

    # The verbs below only spell operations; a backend does not override them.

    def put(self, key: str, body: Body) -> None:
        """Write an object, replacing what was there."""
        self.perform(Put(key, body))

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """Read an object, or its bytes `[start, end)`; None when it is absent."""
        found: bytes | None = self.perform(Get(key, start, end))
        return found

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read several objects at once, in the order of the keys."""
        found: list[bytes | None] = self.perform(GetMany(tuple(keys)))
        return found

    def get_if_changed(self, key: str, etag: str = "") -> Tagged | Unchanged | None:
        """Read an object with its ETag, unless that is still `etag`; None when it is absent."""
        found: Tagged | Unchanged | None = self.perform(GetIfChanged(key, etag))
        return found

    def head(self, key: str) -> Entry | None:
        """Look up the size and ETag of an object; None when it is absent."""
        found: Entry | None = self.perform(Head(key))
        return found

    def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[Entry]:
        """List up to `limit` objects under `prefix`, in order, that sort behind `after`."""
        found: list[Entry] = self.perform(List(prefix, after, limit))
        return found

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; absent ones are no error."""
        self.perform(Delete(tuple(keys)))
