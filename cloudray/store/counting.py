"""Requests are counted: each has a price and a latency, the same on every machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from cloudray.store.base import (
    Adopt,
    Create,
    Delete,
    Get,
    GetIfChanged,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
)
from cloudray.store.bodies import PART_BYTES, size_of
from cloudray.store.wrapper import Wrapper

#: A page of a listing, and a bulk deletion, hold at most this many keys.
KEYS_PER_REQUEST = 1000


class Prices(msgspec.Struct, frozen=True):
    """What a million requests cost, in US dollars. Deletions are free everywhere."""

    put_usd: float
    get_usd: float
    list_usd: float


# us-east-1, 2026: https://aws.amazon.com/s3/pricing/ (PUT, COPY, POST, LIST; GET and others)
S3_STANDARD = Prices(put_usd=5.00, get_usd=0.40, list_usd=5.00)
# us-east-1 since April 2025, same page: S3 Express One Zone; bytes cost extra
S3_EXPRESS = Prices(put_usd=1.13, get_usd=0.03, list_usd=1.13)
# https://developers.cloudflare.com/r2/pricing/: class A operations write and list, class B read
R2 = Prices(put_usd=4.50, get_usd=0.36, list_usd=4.50)


class Ledger:
    """Counts of requests by kind, which several threads may add to.

    >>> ledger = Ledger(put=2, get=3, delete=1)
    >>> ledger.priced_requests
    5
    >>> f"{ledger.cost_usd():.7f}"
    '0.0000112'
    """

    def __init__(self, *, put: int = 0, get: int = 0, list: int = 0, delete: int = 0) -> None:  # noqa: A002 - the kinds' names
        """Begin with these counts."""
        # Taken again by a signal handler that asks the store.
        self._lock = threading.RLock()
        self._counts = {"put": put, "get": get, "list": list, "delete": delete}

    def add(self, kind: str, requests: int = 1) -> None:
        """Count requests of one kind: ``put``, ``get``, ``list`` or ``delete``."""
        with self._lock:
            self._counts[kind] += requests

    def as_dict(self) -> dict[str, int]:
        """Copy the counts, by kind; `Ledger(**counts)` is their ledger again."""
        with self._lock:
            return dict(self._counts)

    def merge(self, other: Ledger | Mapping[str, int]) -> None:
        """Add the counts of another ledger, say of another process, to this one."""
        counts = other.as_dict() if isinstance(other, Ledger) else other
        for kind, requests in counts.items():
            self.add(kind, requests)

    def subtract(self, earlier: Ledger | Mapping[str, int]) -> Ledger:
        """Return what was counted since `earlier`, as a ledger of its own."""
        before = earlier.as_dict() if isinstance(earlier, Ledger) else earlier
        return Ledger(**{kind: n - before.get(kind, 0) for kind, n in self.as_dict().items()})

    @property
    def priced_requests(self) -> int:
        """How many requests cost money: all but deletions."""
        counts = self.as_dict()
        return sum(counts.values()) - counts["delete"]

    def cost_usd(self, prices: Prices = S3_STANDARD) -> float:
        """Price the requests, in US dollars, without bytes moved or stored."""
        counts = self.as_dict()
        return (
            counts["put"] * prices.put_usd
            + counts["get"] * prices.get_usd
            + counts["list"] * prices.list_usd
        ) / 1e6

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment] # a ledger changes

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}={n}" for kind, n in self.as_dict().items())
        return f"Ledger({counts})"


class Counting(Wrapper):
    """Counts in a ledger what the operations on a raw backend are, or would be, in requests.

    An attempt counts whether it succeeds or not: a lost create costs as much as a won one.

    >>> from cloudray.store import MemoryStore
    >>> store = Counting(MemoryStore(), Ledger())
    >>> store.put("key", b"body")
    >>> store.ledger
    Ledger(put=1, get=0, list=0, delete=0)
    """

    def __init__(self, store: Store, ledger: Ledger) -> None:
        super().__init__(store)
        self._raw = store.perform
        self.ledger = ledger

    def perform(self, op: Op) -> Any:
        """Count one operation and perform it."""
        kind = _SINGLE.get(type(op))
        if kind is not None:
            self.ledger.add(kind)
            return self._raw(op)
        self._count(op)
        answer = self._raw(op)
        self._count_pages(op, answer)
        return answer

    async def perform_async(self, op: Op) -> Any:
        """Count one operation and perform it on the event loop."""
        self._count(op)
        answer = await self._store.perform_async(op)
        self._count_pages(op, answer)
        return answer

    def _count(self, op: Op) -> None:
        kind = _SINGLE.get(type(op))
        if kind is not None:
            self.ledger.add(kind)
            return
        match op:
            case Put():
                self.ledger.add("put", _uploads(size_of(op.body)))
            case Adopt():
                size_bytes = op.path.stat().st_size if op.path.exists() else 0
                self.ledger.add("put", _uploads(size_bytes))
            case GetMany():
                self.ledger.add("get", len(op.keys))
            case List():
                self.ledger.add("list")
            case Delete():
                self.ledger.add("delete", -(-len(op.keys) // KEYS_PER_REQUEST))

    def _count_pages(self, op: Op, answer: Any) -> None:
        if isinstance(op, List) and len(answer) > KEYS_PER_REQUEST:
            self.ledger.add("list", (len(answer) - 1) // KEYS_PER_REQUEST)


#: Operations that are always one request.
_SINGLE: dict[type, str] = {Create: "put", Get: "get", GetIfChanged: "get", Head: "get"}


def _uploads(size_bytes: int) -> int:
    # In parts: one request opens the upload, one sends each part, one completes it.
    parts = -(-size_bytes // PART_BYTES)
    return 1 if parts <= 1 else parts + 2
