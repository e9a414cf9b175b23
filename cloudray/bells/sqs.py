"""Amazon SQS as a doorbell: one message per batch, which brings small batches along.

A message is a hint like any other. It is sent beside the batch's put, one agent receives it, and
it is deleted when somebody holds the batch. If it is lost or late, a scan finds the batch; if it
comes twice, the second agent loses the claim.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from cloudray.bells.base import Doorbell, Ear, Heard
from cloudray.bells.hints import Hint, Parcel, open_parcel, seal_parcel
from cloudray.store.base import Store, StoreError
from cloudray.store.envelope import HEADER_BYTES, RecordError

_log = logging.getLogger(__name__)

#: A poll that finds nothing ends after so many seconds: the longest that SQS allows, at
#: $0.40 per million requests $0.00007 per agent and hour.
POLL_S = 20
#: Messages of at most so many bytes bring the batch along. SQS takes 256 KiB everywhere (1 MiB on
#: AWS) and counts a request for each 64 KiB.
MAX_MESSAGE_BYTES = 200_000
#: Messages in one request.
MAX_MESSAGES = 10
#: What a message brought is run without looking for its entry only if it is this young, in
#: seconds by the clock of SQS: the put beside which it was sent is then still under way. An old
#: one may be of a job that was deleted since.
MAX_CARRIED_AGE_S = 60.0
#: A message that so many agents could not use is left to the scans.
MAX_RECEIPTS = 5
#: After a failed request the next is made after so many seconds, then twice as many.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0
#: Messages that are of no more use are deleted together, after so many seconds.
_LINGER_S = 0.05
#: What a signature says that a message is; nothing in a store has this key.
_PLACE = "message"
_AWS_HOST = re.compile(r"sqs[.-](?:fips\.)?(?P<region>[a-z0-9-]+)\.(?:amazonaws|api\.aws)")
_QUEUE_PATH = re.compile(r"/[^/]+/[\w-]{1,80}(?:\.fifo)?/?")


def check_queue(url: str) -> None:
    """Raise ValueError unless this is the URL of a queue that can be a doorbell."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not _QUEUE_PATH.fullmatch(parts.path):
        raise ValueError(
            f"sqs={url} is no URL of a queue: write it as SQS shows it, like "
            "sqs=https://sqs.us-east-1.amazonaws.com/123456789012/name"
        )
    if parts.path.rstrip("/").endswith(".fifo"):
        raise ValueError(
            f"sqs={url} is a FIFO queue, which would hand out batches one after the other: make a "
            "standard queue"
        )


class Channel:
    """One process's way to a queue: a client that is made when it is first used."""

    def __init__(
        self,
        store: Store,
        url: str,
        cluster: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`cluster` is the id of the one whose messages count; its `store` signs them.

        Raises `StoreError` where aiobotocore is not installed.
        """
        try:
            import aiobotocore.session
        except ImportError as error:
            raise StoreError(
                f"the cluster rings its agents by the queue {url}, for which aiobotocore is "
                'needed: pip install "cloudray[aws]"'
            ) from error
        self.url = url
        self.sleep = sleep
        #: messages that were no message of this cluster
        self.ignored = 0
        self._cluster = cluster
        self._store = store
        self._session = aiobotocore.session.get_session()
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._retry_s = 0.0

    async def client(self) -> Any:
        """The client, whose credentials come from where botocore finds them."""
        async with self._opening:
            if self._client is None:
                from aiobotocore.config import AioConfig

                config = AioConfig(
                    connect_timeout=5,
                    read_timeout=POLL_S + 10,
                    retries={"total_max_attempts": 3, "mode": "standard"},
                )
                parts = urlsplit(self.url)
                found = _AWS_HOST.match(parts.netloc)
                # On AWS the endpoint follows from the region; the environment may name another.
                endpoint = None if found else f"{parts.scheme}://{parts.netloc}"
                if "AWS_ENDPOINT_URL_SQS" in os.environ:
                    endpoint = os.environ["AWS_ENDPOINT_URL_SQS"]
                region = found["region"] if found else None
                self._client = await self._stack.enter_async_context(
                    self._session.create_client(
                        "sqs",
                        region_name=region
                        or self._session.get_config_variable("region")
                        or "us-east-1",
                        endpoint_url=endpoint,
                        config=config,
                    )
                )
            return self._client

    async def close(self) -> None:
        """Close the client."""
        self._client = None
        await self._stack.aclose()

    def failed(self, doing: str, error: Exception) -> float:
        """Log a request that failed; returns how long to wait before the next, in seconds."""
        report = _log.info if self._retry_s else _log.warning
        report("%s the queue %s failed, so batches are found by scans: %s", doing, self.url, error)
        self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LONGEST_RETRY_S)
        return self._retry_s

    def worked(self) -> None:
        """A request was answered."""
        if self._retry_s:
            _log.warning("the queue %s answers again", self.url)
            self._retry_s = 0.0

    # -- what messages say -------------------------------------------------------------------

    def pack(self, hint: Hint, body: bytes = b"") -> str:
        """A message's text."""
        record = seal_parcel(Parcel(hint, self._cluster, body))
        signature = self._store.signature(_PLACE)
        if signature is not None:
            signature.add(0, record)
            record = signature.signed(record) + record[HEADER_BYTES:]
        return base64.b64encode(record).decode()

    def unpack(self, text: str) -> Parcel | None:
        """What a message carries; None for what nobody in this cluster wrote."""
        try:
            record = base64.b64decode(text, validate=True)
            signature = self._store.signature(_PLACE)
            if signature is not None:
                signature.add(0, record)
                signature.check()
            parcel = open_parcel(record, self.url)
        except (RecordError, ValueError) as error:
            self.ignored += 1
            _log.warning("a message was ignored: %s", error)
            return None
        if parcel.cluster != self._cluster:
            self.ignored += 1
            _log.warning("a message of another cluster was ignored; each needs its own queue")
            return None
        return parcel


class QueueBell(Doorbell):
    """Sends a message for each batch."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: batches whose messages were sent beside their puts
        self._sent: set[bytes] = set()

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:
        """Send a small batch, while it is being put."""
        text = self._channel.pack(hint, body())
        if len(text) > MAX_MESSAGE_BYTES:
            return
        self._sent.add(hint.name.batch)
        if not await self._send([text]):
            self._sent.discard(hint.name.batch)

    async def ring(self, hints: Sequence[Hint]) -> None:
        """Send the names of batches that were not sent themselves."""
        texts = []
        for hint in hints:
            if hint.name.batch in self._sent:
                self._sent.discard(hint.name.batch)
            else:
                texts.append(self._channel.pack(hint))
        for first in range(0, len(texts), MAX_MESSAGES):
            await self._send(texts[first : first + MAX_MESSAGES])

    async def close(self) -> None:
        """Close the client."""
        await self._channel.close()

    async def _send(self, texts: Sequence[str]) -> bool:
        try:
            client = await self._channel.client()
            entries = [{"Id": str(n), "MessageBody": text} for n, text in enumerate(texts)]
            answer = await client.send_message_batch(QueueUrl=self._channel.url, Entries=entries)
        except Exception as error:  # noqa: BLE001 - botocore's are many; a ring may be lost
            self._channel.failed("sending to", error)
            return False
        self._channel.worked()
        return not answer.get("Failed")


class QueueEar(Ear):
    """Receives messages by long polls."""

    shared = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: receipts of messages that are of no more use
        self._used: list[str] = []
        self._returned: list[str] = []
        self._settling: asyncio.Task[None] | None = None

    @property
    def ignored(self) -> int:
        """How many messages were no message of this cluster."""
        return self._channel.ignored

    async def hear(self, room: int) -> list[Heard] | None:
        """Receive messages for so many batches, or none for 20 seconds."""
        try:
            client = await self._channel.client()
            answer = await client.receive_message(
                QueueUrl=self._channel.url,
                MaxNumberOfMessages=min(max(room, 1), MAX_MESSAGES),
                WaitTimeSeconds=POLL_S,
                AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            )
        except Exception as error:  # noqa: BLE001 - botocore's are many; scans find the work
            await self._channel.sleep(self._channel.failed("receiving from", error))
            return None
        self._channel.worked()
        heard = [self._heard(message, answer) for message in answer.get("Messages", ())]
        return [each for each in heard if each is not None] or None

    async def close(self) -> None:
        """Delete what is of no more use, and close the client."""
        if self._settling is not None:
            await self._settling
        await self._channel.close()

    def _heard(self, message: Any, answer: Any) -> Heard | None:
        receipt = message["ReceiptHandle"]
        parcel = self._channel.unpack(message["Body"])
        if parcel is None:
            self._settle(receipt, 0, taken=True)
            return None
        attributes = message.get("Attributes", {})
        receipts = int(attributes.get("ApproximateReceiveCount", 1))
        young = _age_s(attributes, answer) < MAX_CARRIED_AGE_S
        settle = partial(self._settle, receipt, receipts)
        return Heard(parcel.hint, parcel.body if young else b"", settle)

    def _settle(self, receipt: str, receipts: int, *, taken: bool) -> None:
        if taken or receipts >= MAX_RECEIPTS:
            self._used.append(receipt)
        else:
            self._returned.append(receipt)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle_all())

    async def _settle_all(self) -> None:
        await self._channel.sleep(_LINGER_S)
        try:
            client = await self._channel.client()
            while self._used or self._returned:
                used, self._used = self._used[:MAX_MESSAGES], self._used[MAX_MESSAGES:]
                if used:
                    entries = [{"Id": str(n), "ReceiptHandle": each} for n, each in enumerate(used)]
                    await client.delete_message_batch(QueueUrl=self._channel.url, Entries=entries)
                returned, self._returned = self._returned[:1], self._returned[1:]
                for receipt in returned:
                    await client.change_message_visibility(
                        QueueUrl=self._channel.url, ReceiptHandle=receipt, VisibilityTimeout=0
                    )
        except Exception as error:  # noqa: BLE001 - they come again, and lose the claim
            self._channel.failed("deleting from", error)


def _age_s(attributes: Any, answer: Any) -> float:
    """How old a message is, by the clock of the service alone; very old where it does not tell."""
    sent_ms = attributes.get("SentTimestamp")
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if sent_ms is None or date is None:
        return float("inf")
    try:
        return parsedate_to_datetime(date).timestamp() - int(sent_ms) / 1000
    except ValueError:
        return float("inf")
