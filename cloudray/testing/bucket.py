"""A simulated bucket: atomic, as far away as one likes, limited, expensive and unreliable."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from cloudray.store import Ledger, MemoryStore
from cloudray.store.base import (
    Adopt,
    Create,
    Delete,
    GetMany,
    List,
    Op,
    Put,
    Store,
    StoreError,
    TransientStoreError,
)
from cloudray.store.counting import Counting
from cloudray.store.wording import doing
from cloudray.testing.scheduler import Process, Scheduler

#: The 99th percentile of a normal distribution lies so many standard deviations above its mean.
_P99 = 2.3263


class Latency(msgspec.Struct, frozen=True):
    """How long requests take, in seconds: lognormal around a median, with a 99th percentile."""

    get_s: float = 0.020
    get_p99_s: float = 0.120
    put_s: float = 0.030
    put_p99_s: float = 0.200
    list_s: float = 0.050
    list_p99_s: float = 0.300

    @classmethod
    def constant(cls, latency_s: float) -> Latency:
        """Every request takes exactly so long."""
        return cls(*(latency_s,) * 6)


class Limits(msgspec.Struct, frozen=True):
    """Requests per second and prefix, as S3 allows them; what comes beyond gets a 503."""

    get_per_s: float = 5500.0
    put_per_s: float = 3500.0


class Trouble(msgspec.Struct, frozen=True):
    """What may befall a request: probabilities, from 0 to 1 in sum."""

    #: 503 or a lost connection, not done
    refused: float = 0.0
    #: 503 or a lost connection, but done
    done_after_all: float = 0.0
    #: 409: a create is told no although nothing was decided
    conflict: float = 0.0
    #: 412: a create is told no by its own write
    own_write: float = 0.0
    #: no answer in time, not done
    timed_out: float = 0.0
    #: no answer in time, and done much later
    delayed: float = 0.0
    #: the client gives up after so many seconds
    timeout_s: float = 2.0
    #: a delayed request arrives at most so much later, in seconds
    delay_s: float = 3.0

    def draw(self, rng: Random) -> str:
        """What befalls the next request; empty for nothing."""
        chance = rng.random()
        for name in ("refused", "done_after_all", "conflict", "own_write", "timed_out", "delayed"):
            chance -= getattr(self, name)
            if chance < 0:
                return name
        return ""


_PEACE = Trouble()
#: What a create is told that did not win its key.
_NO = False


class Bucket:
    """The server: what is stored, what it cost, and how long an answer takes."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: Random,
        *,
        latency: Latency | None = None,
        limits: Limits | None = None,
        trouble: Trouble = _PEACE,
        url: str = "s3://simulated",
    ) -> None:
        self.scheduler = scheduler
        self.ledger = Ledger()
        #: operations done, by kind
        self.done: Counter[str] = Counter()
        #: requests refused because a prefix had too many
        self.slowed = 0
        self.trouble = trouble
        self.memory = MemoryStore(url)
        #: told of each operation that was done, and of its answer
        self.observers: list[Callable[[str, Op, Any], None]] = []
        self._server = Counting(self.memory, self.ledger)
        self._network = Process(scheduler, "network")
        self._rng = rng
        self._limits = limits
        self._tokens: dict[tuple[str, bool], tuple[float, float]] = {}
        self._draw = _draws(latency or Latency(), rng)

    # -- one request -------------------------------------------------------------------------

    def request(self, link: Link, op: Op, reply: Callable[[Any, StoreError | None], None]) -> None:
        """Send a request; `reply` gets its answer, or its error, unless its process is gone."""
        latency_s = self._latency_of(op)
        network = self._network
        if link.cut:
            network.call_later(
                min(latency_s, 1.0), self._fail, link, op, "the network is cut", reply
            )
            return
        trouble = self.trouble
        befalls = trouble.draw(self._rng) if trouble is not _PEACE else ""
        if befalls in ("conflict", "own_write") and type(op) is not Create:
            befalls = "refused"
        if befalls == "delayed" and not isinstance(op, Create | Put):
            befalls = "timed_out"
        if befalls in ("timed_out", "delayed"):
            if befalls == "delayed":
                late_s = trouble.timeout_s + self._rng.random() * trouble.delay_s
                network.call_later(late_s, self._arrive_late, link, op)
            network.call_later(
                trouble.timeout_s, self._fail, link, op, "the request timed out", reply
            )
            return
        there_s = latency_s * (self._rng.random() if trouble is not _PEACE else 0.5)
        network.call_later(there_s, self._arrive, link, op, befalls, latency_s - there_s, reply)

    def _arrive(
        self,
        link: Link,
        op: Op,
        befalls: str,
        back_s: float,
        reply: Callable[[Any, StoreError | None], None],
    ) -> None:
        if link.lost and self._rng.random() < link.lost:
            return
        network = self._network
        if link.cut and not befalls:
            # Cut while it was on its way: there, or on the way back.
            befalls = self._rng.choice(("refused", "done_after_all"))
        if not self._admit(op):
            self.slowed += 1
            network.call_later(back_s, self._fail, link, op, "503 Slow Down", reply)
        elif befalls == "refused":
            network.call_later(back_s, self._fail, link, op, "503 Service Unavailable", reply)
        elif befalls == "conflict":
            network.call_later(back_s, reply, _NO, None)
        else:
            answer = self._do(link, op)
            if befalls == "done_after_all":
                network.call_later(back_s, self._fail, link, op, "the connection was lost", reply)
            else:
                network.call_later(back_s, reply, _NO if befalls else answer, None)

    def _arrive_late(self, link: Link, op: Op) -> None:
        # A create that is late still only creates what is absent; an older beat of a heartbeat
        # may overwrite a newer one, as it may on S3.
        self._do(link, op, late=True)

    def _do(self, link: Link, op: Op, *, late: bool = False) -> Any:
        self.done[type(op).__name__] += 1
        if isinstance(op, Adopt):
            # The file stays: who is not told that it was uploaded will do so again.
            op = Put(op.key, op.path.read_bytes())
        answer = self._server.perform(op)
        for observe in self.observers:
            observe(f"{link.name} (late)" if late else link.name, op, answer)
        return answer

    def _fail(
        self, link: Link, op: Op, why: str, reply: Callable[[Any, StoreError | None], None]
    ) -> None:
        del link
        reply(None, TransientStoreError(f"{doing(op)} failed: {why}"))

    # -- how long, and how many ----------------------------------------------------------------

    def _latency_of(self, op: Op) -> float:
        if isinstance(op, Put | Create | Delete | Adopt):
            return self._draw["put"]()
        if isinstance(op, List):
            return self._draw["list"]()
        if isinstance(op, GetMany):
            return max((self._draw["get"]() for _ in op.keys), default=0.0)
        return self._draw["get"]()

    def _admit(self, op: Op) -> bool:
        limits = self._limits
        if limits is None:
            return True
        if isinstance(op, Delete):
            key, writes, count = op.keys[0] if op.keys else "", True, 1
        elif isinstance(op, GetMany):
            key, writes, count = op.keys[0] if op.keys else "", False, len(op.keys)
        elif isinstance(op, List):
            key, writes, count = op.prefix, False, 1
        else:
            key, writes, count = op.key, isinstance(op, Put | Create | Adopt), 1
        rate = limits.put_per_s if writes else limits.get_per_s
        bucket = key.rpartition("/")[0], writes
        now_s = self.scheduler.now_s
        left, since_s = self._tokens.get(bucket, (rate, now_s))
        left = min(rate, left + (now_s - since_s) * rate)
        admitted = left >= min(count, rate)
        self._tokens[bucket] = (left - count if admitted else left), now_s
        return admitted


def _draws(latency: Latency, rng: Random) -> dict[str, Callable[[], float]]:
    def draw(median_s: float, p99_s: float) -> Callable[[], float]:
        if median_s == p99_s:
            return lambda: median_s
        mu, sigma = math.log(median_s), math.log(p99_s / median_s) / _P99
        return lambda: math.exp(rng.gauss(mu, sigma))

    return {
        "get": draw(latency.get_s, latency.get_p99_s),
        "put": draw(latency.put_s, latency.put_p99_s),
        "list": draw(latency.list_s, latency.list_p99_s),
    }


class Link(Store):
    """One process's connection to the bucket."""

    def __init__(self, bucket: Bucket, process: Process) -> None:
        self.url = bucket.memory.url
        self.name = process.name
        #: nothing gets through either way
        self.cut = False
        #: what share of them got lost with the process
        self.lost = 0.0
        self._bucket = bucket
        self._process = process

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation; only the process itself waits."""
        future: asyncio.Future[Any] = self._process.create_future()
        self._bucket.request(self, op, lambda *answer: self._answered(future, *answer))
        return await future

    def perform(self, op: Op) -> Any:
        """Perform one operation; the thread waits."""
        thread = self._process.scheduler.baton.holder
        if thread is None:
            msg = f"an event loop would wait while {doing(op)}"
            raise RuntimeError(msg)
        answers: list[tuple[Any, StoreError | None]] = []

        def reply(answer: Any, error: StoreError | None) -> None:
            answers.append((answer, error))
            thread.unpark()

        self._bucket.request(self, op, reply)
        while not answers:
            thread.park()
        answer, error = answers[0]
        if error is not None:
            raise error
        return answer

    def _answered(self, future: asyncio.Future[Any], answer: Any, error: StoreError | None) -> None:
        self._process.call_soon(_settle, future, answer, error)


def _settle(future: asyncio.Future[Any], answer: Any, error: StoreError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)
