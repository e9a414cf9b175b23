"""The simulated bucket: how long it takes, what it refuses, and what it does behind one's back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from cloudray.store import Kind, TransientStoreError, seal
from cloudray.store.base import Create, Get, Op
from cloudray.testing.bucket import Bucket, Latency, Limits, Link, Trouble
from cloudray.testing.scheduler import Process, Scheduler


class Client:
    """One process that sends operations, and what came back."""

    def __init__(self, **options: Any) -> None:
        self.scheduler = Scheduler()
        self.bucket = Bucket(self.scheduler, Random(1), latency=Latency.constant(0.1), **options)
        self.process = Process(self.scheduler, "client")
        self.link = Link(self.bucket, self.process)
        self.answers: list[Any] = []
        self.times: list[float] = []

    def send(self, op: Op) -> None:
        self.process.spawn(self._send(op))

    async def _send(self, op: Op) -> None:
        try:
            self.answers.append(await self.link.perform_async(op))
        except TransientStoreError as error:
            self.answers.append(error)
        self.times.append(self.scheduler.now_s)

    def run(self, limit_s: float = 100.0) -> None:
        self.scheduler.run(lambda: False, limit_s)


def body() -> bytes:
    return seal(Kind.PROBE, b"body")


def test_an_answer_takes_its_time() -> None:
    client = Client()
    client.send(Get("absent"))
    client.run()
    assert client.answers == [None]
    assert client.times == [pytest.approx(0.1)]


def test_of_two_creates_one_wins() -> None:
    client = Client()
    client.send(Create("key", body()))
    client.send(Create("key", body()))
    client.run()
    assert client.answers == [True, False]


def test_a_prefix_takes_only_so_many_requests_per_second() -> None:
    client = Client(limits=Limits(put_per_s=10.0))
    for number in range(15):
        client.send(Create(f"folder/{number}", body()))
    client.run()
    assert sum(answer is True for answer in client.answers) == 10
    assert client.bucket.slowed == 5


def test_a_delayed_put_arrives_after_its_client_gave_up() -> None:
    client = Client(trouble=Trouble(delayed=1.0, timeout_s=1.0, delay_s=5.0))
    client.send(Create("key", body()))
    client.run(1.0)
    assert isinstance(client.answers[0], TransientStoreError)
    assert client.bucket.memory.get("key") is None
    client.run()
    assert client.bucket.memory.get("key") is not None


def test_a_lost_connection_may_hide_that_it_was_done() -> None:
    client = Client(trouble=Trouble(done_after_all=1.0))
    client.send(Create("key", body()))
    client.run()
    assert isinstance(client.answers[0], TransientStoreError)
    assert client.bucket.memory.get("key") is not None


def test_nothing_gets_through_a_cut() -> None:
    client = Client()
    client.link.cut = True
    client.send(Create("key", body()))
    client.run()
    assert isinstance(client.answers[0], TransientStoreError)
    assert client.bucket.memory.get("key") is None


def test_requests_are_counted_where_they_arrive() -> None:
    client = Client()
    client.send(Create("key", body()))
    client.send(Get("key"))
    client.run()
    assert client.bucket.ledger.as_dict() == {"put": 1, "get": 1, "list": 0, "delete": 0}
