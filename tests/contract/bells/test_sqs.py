"""SQS as a doorbell, against moto's."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from cloudray.bells import sqs
from cloudray.bells.choice import bell_of, ear_of
from cloudray.bells.hints import Hint
from cloudray.bells.sqs import (
    MAX_CARRIED_AGE_S,
    MAX_MESSAGE_BYTES,
    MAX_RECEIPTS,
    Channel,
    QueueBell,
    QueueEar,
    check_queue,
)
from cloudray.keyring import new_key
from cloudray.protocol.joining import join
from cloudray.protocol.records import Cluster
from cloudray.store import MemoryStore, Reliable, Store, drive
from cloudray.store.opening import sign
from tests.buckets import credentials
from tests.unit.agent.bench import Remote
from tests.unit.bells.test_hints import hint

BODY = b"a sealed batch"


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with credentials(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL_SQS", raising=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(scope="module")
def client(endpoint: str, runner: asyncio.Runner) -> Iterator[Any]:
    """The client that a channel makes, which takes its time."""
    channel = Channel(MemoryStore(), f"{endpoint}/123456789012/any", "cluster")
    yield runner.run(channel.client())
    runner.run(channel.close())


class Meeting:
    """A queue, and how a submitter and an agent of a cluster meet there."""

    def __init__(self, url: str, client: Any, runner: asyncio.Runner) -> None:
        self.url = url
        self._client = client
        self._runner = runner

    def of(
        self,
        work: Callable[[QueueBell, QueueEar], Coroutine[Any, Any, None]],
        *,
        rings: Store | None = None,
        hears: Store | None = None,
        cluster: str = "cluster",
    ) -> None:
        bell = QueueBell(self._channel(rings, cluster))
        ear = QueueEar(self._channel(hears, "cluster"))
        self._runner.run(work(bell, ear))
        self._runner.run(bell.close())
        self._runner.run(ear.close())

    def _channel(self, store: Store | None, cluster: str) -> Channel:
        channel = Channel(store or MemoryStore(), self.url, cluster)
        channel._client = self._client
        return channel

    async def left(self) -> list[int]:
        """How many messages there are, and how many an agent has that it did not delete."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = await self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return [int(found["Attributes"][name]) for name in names]


@pytest.fixture
def queue(client: Any, runner: asyncio.Runner, request: pytest.FixtureRequest) -> Meeting:
    """An empty queue."""
    name = re.sub(r"\W+", "-", request.node.name)[-80:]
    made = runner.run(client.create_queue(QueueName=name))
    return Meeting(made["QueueUrl"], client, runner)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for messages that are there, or nearly; SQS itself would wait for longer."""
    monkeypatch.setattr(sqs, "POLL_S", 1)


async def heard(ear: QueueEar) -> list[tuple[Hint, bytes]]:
    return [(each.hint, each.body) for each in await ear.hear(10) or []]


def test_a_small_batch_travels_in_its_message(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: BODY)
        assert await heard(ear) == [(hint(1), BODY)]

    queue.of(work)


def test_a_batch_that_was_announced_is_not_rung_for_again(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        del ear
        await bell.announce(hint(1), lambda: BODY)
        await bell.ring([hint(1), hint(2)])
        assert await queue.left() == [2, 0]

    queue.of(work)


def test_a_large_batch_is_only_named_when_it_is_stored(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: bytes(MAX_MESSAGE_BYTES))
        assert await queue.left() == [0, 0]
        await bell.ring([hint(1)])
        assert await heard(ear) == [(hint(1), b"")]

    queue.of(work)


def test_more_batches_than_a_request_may_name_are_rung_for(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        del ear
        await bell.ring([hint(number) for number in range(25)])
        assert await queue.left() == [25, 0]

    queue.of(work)


def test_a_message_is_deleted_when_somebody_holds_the_batch(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.ring([hint(1)])
        (message,) = await ear.hear(1) or []
        assert await queue.left() == [0, 1]
        message.settle(taken=True)
        await settled(ear)
        assert await queue.left() == [0, 0]

    queue.of(work)


def test_a_message_that_an_agent_cannot_use_is_there_for_others_at_once(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.ring([hint(1)])
        (message,) = await ear.hear(1) or []
        message.settle(taken=False)
        await settled(ear)
        assert await heard(ear) == [(hint(1), b"")]

    queue.of(work)


def test_what_nobody_can_use_is_left_to_the_scans(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.ring([hint(1)])
        for _ in range(MAX_RECEIPTS):
            (message,) = await ear.hear(1) or []
            message.settle(taken=False)
            await settled(ear)
        assert await queue.left() == [0, 0]

    queue.of(work)


async def settled(ear: QueueEar) -> None:
    assert ear._settling is not None
    await ear._settling


def test_an_empty_queue_says_nothing(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        del bell
        assert await ear.hear(1) is None

    queue.of(work)


# -- whose messages ------------------------------------------------------------------------


def test_a_message_of_another_cluster_is_ignored_and_counted(queue: Meeting) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: BODY)
        assert await ear.hear(1) is None
        assert ear.ignored == 1
        await settled(ear)
        assert await queue.left() == [0, 0]

    queue.of(work, cluster="another")


@pytest.mark.parametrize("text", ["", "no base64!", "bm8gcmVjb3Jk"])
def test_what_is_no_message_is_ignored_and_counted(queue: Meeting, text: str) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        del bell
        assert ear._channel.unpack(text) is None
        assert ear.ignored == 1

    queue.of(work)


def test_messages_of_a_cluster_with_a_key_are_signed(queue: Meeting) -> None:
    key = new_key()

    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: BODY)
        assert await heard(ear) == [(hint(1), BODY)]

    queue.of(work, rings=sign(MemoryStore(), key), hears=sign(MemoryStore(), key))


@pytest.mark.parametrize("forger", [None, new_key()])
def test_a_message_that_the_key_has_not_signed_is_ignored_and_counted(
    queue: Meeting, forger: Any
) -> None:
    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: BODY)
        assert await ear.hear(1) is None
        assert ear.ignored == 1

    queue.of(work, rings=sign(MemoryStore(), forger), hears=sign(MemoryStore(), new_key()))


def test_an_old_message_is_a_hint_and_no_more(
    queue: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs, "MAX_CARRIED_AGE_S", -MAX_CARRIED_AGE_S)

    async def work(bell: QueueBell, ear: QueueEar) -> None:
        await bell.announce(hint(1), lambda: BODY)
        assert await heard(ear) == [(hint(1), b"")]

    queue.of(work)


@pytest.mark.parametrize(
    ("attributes", "headers"),
    [
        ({}, {"date": "Tue, 24 Nov 2026 14:00:00 GMT"}),
        ({"SentTimestamp": "1795528800000"}, {}),
        ({"SentTimestamp": "1795528800000"}, {"date": "yesterday"}),
    ],
)
def test_a_message_whose_age_is_unknown_is_old(attributes: Any, headers: Any) -> None:
    answer = {"ResponseMetadata": {"HTTPHeaders": headers}}
    assert sqs._age_s(attributes, answer) == float("inf")


def test_the_age_of_a_message_is_told_by_its_service() -> None:
    answer = {"ResponseMetadata": {"HTTPHeaders": {"date": "Tue, 24 Nov 2026 14:00:00 GMT"}}}
    sent_ms = (1795528800 - 7) * 1000
    assert sqs._age_s({"SentTimestamp": str(sent_ms)}, answer) == 7


# -- when it fails -------------------------------------------------------------------------


def test_a_queue_that_is_not_there_loses_rings_and_nothing_else(
    queue: Meeting, caplog: pytest.LogCaptureFixture
) -> None:
    waits_s: list[float] = []
    queue.url += "-absent"

    async def note(delay_s: float) -> None:
        waits_s.append(delay_s)

    async def work(bell: QueueBell, ear: QueueEar) -> None:
        ear._channel.sleep = note
        await bell.announce(hint(1), lambda: BODY)
        await bell.ring([hint(1)])
        assert [await ear.hear(1) for _ in range(3)] == [None] * 3

    queue.of(work)
    assert waits_s == [1.0, 2.0, 4.0]
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ["batches are found by scans" in record.message for record in said] == [True] * 2


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("queue", "is no URL of a queue"),
        ("https://sqs.us-east-1.amazonaws.com/", "is no URL of a queue"),
        ("arn:aws:sqs:us-east-1:123456789012:name", "is no URL of a queue"),
        ("https://sqs.us-east-1.amazonaws.com/123456789012/name.fifo", "make a standard queue"),
    ],
)
def test_what_is_no_queue_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        check_queue(url)


# -- which bell ----------------------------------------------------------------------------

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/name"


def test_a_cluster_made_with_a_queue_has_it_for_good() -> None:
    store = Reliable(MemoryStore())
    made = drive(store, join(f"s3://bucket?sqs={QUEUE}"))
    assert made.sqs == QUEUE
    assert made.id
    assert drive(store, join("s3://bucket")) == made
    assert drive(store, join(f"s3://bucket?sqs={QUEUE}")) == made
    with pytest.raises(ValueError, match="leave sqs= out"):
        drive(store, join(f"s3://bucket?sqs={QUEUE}2"))


def test_a_cluster_made_without_a_queue_gets_none() -> None:
    store = Reliable(MemoryStore())
    assert drive(store, join("s3://bucket")).sqs == ""
    with pytest.raises(ValueError, match="was made without a queue"):
        drive(store, join(f"s3://bucket?sqs={QUEUE}"))


@pytest.mark.parametrize(
    ("store", "settings", "bell", "ear"),
    [
        (Remote(), Cluster(1, 1, 1, 1), "BucketBell", "BucketEar"),
        (Remote(), Cluster(1, 1, 1, 1, sqs=QUEUE, id="i"), "QueueBell", "QueueEar"),
        (Remote(), Cluster(1, 1, 1, 1, ephemeral=True), "Silent", "NoneType"),
        (MemoryStore(), Cluster(1, 1, 1, 1), "Silent", "NoneType"),
    ],
)
def test_a_cluster_rings_as_its_record_says(
    store: Store, settings: Cluster, bell: str, ear: str
) -> None:
    from random import Random

    assert type(bell_of(store, settings, float)).__name__ == bell
    assert type(ear_of(store, settings, float, Random(1))).__name__ == ear


def test_a_cluster_without_a_queue_loads_no_aws_sdk() -> None:
    program = """
import sys
from cloudray.bells import Doorbell, bell_of, ear_of
from cloudray.driver import client
print(*(sys.modules.keys() & {"aiobotocore", "botocore", "boto3"}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == ""
