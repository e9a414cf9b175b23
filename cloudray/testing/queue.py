"""A simulated SQS queue, which loses messages, and brings them late, twice or in another order."""

from __future__ import annotations

import asyncio
from collections import deque
from email.utils import formatdate
from random import Random
from typing import Any

import msgspec

from cloudray.bells.sqs import Channel
from cloudray.store.base import Store
from cloudray.testing.scheduler import Process, Scheduler

URL = "https://sqs.us-east-1.amazonaws.com/123456789012/simulated"
#: A message that was received and not deleted comes again after so many seconds.
_VISIBILITY_S = 30.0
_EPOCH_S = 1.8e9


class Delivery(msgspec.Struct, frozen=True):
    """What may befall a message: probabilities, from 0 to 1."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    #: a late one comes at most so much later, in seconds
    late_s: float = 10.0


class _Message:
    def __init__(self, number: int, body: str, sent_s: float) -> None:
        self.number = number
        self.body = body
        self.sent_s = sent_s
        self.receipts = 0
        self.deleted = False


class SimulatedQueue:
    """The service."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: Random,
        *,
        latency_s: float = 0.01,
        delivery: Delivery | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.latency_s = latency_s
        self.delivery = delivery or Delivery()
        #: requests, which all cost the same
        self.requests = 0
        self._rng = rng
        self._network = Process(scheduler, "queue")
        self._ready: list[_Message] = []
        self._polls: deque[_Poll] = deque()
        self._received: dict[str, _Message] = {}
        self._serial = 0

    def send(self, body: str) -> None:
        """A message has arrived."""
        self._serial += 1
        message = _Message(self._serial, body, self.scheduler.now_s)
        rng, delivery = self._rng, self.delivery
        if rng.random() < delivery.lost:
            return
        for _ in range(1 + (rng.random() < delivery.twice)):
            delay_s = rng.uniform(0, delivery.late_s) if rng.random() < delivery.late else 0.0
            self.show(message, delay_s)

    def show(self, message: _Message, delay_s: float) -> None:
        """Let a message be received, after a while."""
        if delay_s > 0:
            self._network.call_later(delay_s, self.show, message, 0.0)
        elif not message.deleted:
            self._ready.append(message)
            self._hand_out()

    def poll(self, poll: _Poll) -> None:
        """Somebody would like messages."""
        self._polls.append(poll)
        self._network.call_later(poll.wait_s, poll.answer, [])
        self._hand_out()

    def _hand_out(self) -> None:
        while self._ready and self._polls:
            poll = self._polls.popleft()
            if poll.answered or poll.process.killed:
                continue
            messages: list[tuple[str, _Message]] = []
            while self._ready and len(messages) < poll.limit:
                message = self._ready.pop(self._rng.randrange(len(self._ready)))
                if message.deleted:
                    continue
                message.receipts += 1
                self._serial += 1
                receipt = str(self._serial)
                self._received[receipt] = message
                self._network.call_later(_VISIBILITY_S, self._again, receipt)
                messages.append((receipt, message))
            if messages:
                poll.answer(messages)
            else:
                self._polls.appendleft(poll)

    def _again(self, receipt: str) -> None:
        message = self._received.pop(receipt, None)
        if message is not None:
            self.show(message, 0.0)

    def delete(self, receipt: str) -> None:
        """A message is of no more use."""
        message = self._received.pop(receipt, None)
        if message is not None:
            message.deleted = True

    def give_back(self, receipt: str) -> None:
        """A message may be received by somebody else."""
        self._again(receipt)


class _Poll:
    def __init__(
        self, process: Process, limit: int, wait_s: float, future: asyncio.Future[Any]
    ) -> None:
        self.process = process
        self.limit = limit
        self.wait_s = wait_s
        self.answered = False
        self._future = future

    def answer(self, messages: list[tuple[str, _Message]]) -> None:
        if not self.answered:
            self.answered = True
            self.process.call_soon(_settle, self._future, messages)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


class _Client:
    """What `aiobotocore` gives for SQS, as far as a doorbell uses it."""

    def __init__(self, queue: SimulatedQueue, process: Process) -> None:
        self._queue = queue
        self._process = process

    async def send_message_batch(self, *, QueueUrl: str, Entries: list[Any]) -> Any:  # noqa: N803
        del QueueUrl
        await self._half()
        for entry in Entries:
            self._queue.send(entry["MessageBody"])
        await asyncio.sleep(self._queue.latency_s / 2)
        return {}

    async def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int,  # noqa: N803
        WaitTimeSeconds: float,  # noqa: N803
        AttributeNames: list[str],  # noqa: N803
    ) -> Any:
        del QueueUrl, AttributeNames
        await self._half()
        future = self._process.create_future()
        self._queue.poll(_Poll(self._process, MaxNumberOfMessages, WaitTimeSeconds, future))
        messages = await future
        await asyncio.sleep(self._queue.latency_s / 2)
        now_s = _EPOCH_S + self._queue.scheduler.now_s
        return {
            "Messages": [
                {
                    "ReceiptHandle": receipt,
                    "Body": message.body,
                    "Attributes": {
                        "SentTimestamp": str(int((_EPOCH_S + message.sent_s) * 1000)),
                        "ApproximateReceiveCount": str(message.receipts),
                    },
                }
                for receipt, message in messages
            ],
            "ResponseMetadata": {"HTTPHeaders": {"date": formatdate(now_s, usegmt=True)}},
        }

    async def delete_message_batch(self, *, QueueUrl: str, Entries: list[Any]) -> Any:  # noqa: N803
        del QueueUrl
        await self._half()
        for entry in Entries:
            self._queue.delete(entry["ReceiptHandle"])
        await asyncio.sleep(self._queue.latency_s / 2)

    async def change_message_visibility(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        ReceiptHandle: str,  # noqa: N803
        VisibilityTimeout: float,  # noqa: N803
    ) -> Any:
        del QueueUrl, VisibilityTimeout
        await self._half()
        self._queue.give_back(ReceiptHandle)
        await asyncio.sleep(self._queue.latency_s / 2)

    async def _half(self) -> None:
        self._queue.requests += 1
        await asyncio.sleep(self._queue.latency_s / 2)


class VirtualChannel(Channel):
    """Stands in for a process's way to SQS."""

    def __init__(
        self, queue: SimulatedQueue, process: Process, store: Store, url: str, cluster: str
    ) -> None:
        self.url = url
        self.sleep = asyncio.sleep
        self.ignored = 0
        self._cluster = cluster
        self._store = store
        self._retry_s = 0.0
        self._client = _Client(queue, process)

    async def client(self) -> Any:
        """The client."""
        return self._client

    async def close(self) -> None:
        """Nothing to close."""
