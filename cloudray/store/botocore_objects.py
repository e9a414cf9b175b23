"""S3 by aiobotocore, the second client: for what only botocore knows of credentials and proxies.

Two clients, as in `cloudray.store.objects`: the steady one retries by itself; the one for
put-if-absent makes exactly one attempt. Both live on one event loop, on a thread of its own, so
that a store may be used from any thread and from any loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cloudray.store.base import (
    UNCHANGED,
    Adopt,
    Body,
    Create,
    CredentialsError,
    Delete,
    Entry,
    Get,
    GetIfChanged,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
    StoreError,
    Tagged,
    Unchanged,
)
from cloudray.store.bodies import PART_BYTES, join, range_of, size_of, views_of
from cloudray.store.botocore_clients import (
    check_installed,
    errors,
    interpret,
    make_client,
    make_session,
    send_at_once,
)
from cloudray.store.checks import check_op, is_empty
from cloudray.store.clients import UPLOADS, Place
from cloudray.store.loops import LoopThread
from cloudray.store.refusals import tells_nothing

#: Requests of one `GetMany` or `Delete` that travel at once.
_AT_ONCE = 16
_LEFT_OPEN = frozenset({"Unclosed client session", "Unclosed connector"})
#: A page of a listing, and a bulk deletion, hold at most this many keys.
_KEYS_PER_REQUEST = 1000


class BotocoreStore(Store):
    """The objects under one prefix of a bucket on S3, or on what speaks its protocol."""

    def __init__(self, place: Place, url: str) -> None:
        """Send nothing yet. `url` names the store as its user typed it.

        Raises `StoreError` when aiobotocore is not installed.
        """
        check_installed()
        self.url = url
        self._place = place
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._ordered = not place.is_express
        self._errors = errors()
        #: whether any request has been answered yet
        self._proven = False
        self._open = True
        # Whoever does not close the store leaves that to the end of the process.
        self._loop = LoopThread("cloudray-aiobotocore", ignoring=_LEFT_OPEN)
        # All below is used on that loop only.
        self._connecting = asyncio.Lock()
        self._clients: _Clients | None = None

    def perform(self, op: Op) -> Any:
        """Perform one operation, blocking.

        Raises `TransientStoreError` or `StoreError`; `ValueError` when a key is none.
        """
        self._check(op)
        return self._loop.run(self._perform(op))

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation without blocking the event loop. Raises what `perform` does."""
        self._check(op)
        return await self._loop.run_async(self._perform(op))

    def close(self) -> None:
        """Close the connections, and end the thread. Idempotent."""
        if not self._open:
            return
        self._open = False
        if not self._loop.lost:
            self._loop.run(self._disconnect())
            self._loop.close()

    def _check(self, op: Op) -> None:
        check_op(op)
        if self._loop.lost:
            raise StoreError(
                f"cannot use {self.url} in a process that was forked from the one that opened "
                'it: start processes with multiprocessing.get_context("spawn"), or join the '
                "cluster only after forking."
            )
        if not self._open:
            raise StoreError(f"{self.url} has been closed")

    async def _perform(self, op: Op) -> Any:
        clients: _Clients | None = None
        try:
            try:
                clients = await self._connected()
                async with clients.in_use():
                    answer = await self._do(op, clients)
            except self._errors as error:
                return interpret(op, error, self.url, self._place, proven=self._proven)
        except CredentialsError:
            # The next to ask reads again where they come from: somebody may have renewed them.
            if self._clients is clients:
                await self._disconnect()
            raise
        except StoreError as told:
            if not tells_nothing(op, told) or await self._perform(Get(op.key, 0, 1)) is not None:
                raise
            return None
        self._proven = True
        return answer

    async def _do(self, op: Op, clients: _Clients) -> Any:  # noqa: C901, PLR0911, PLR0912 - one each
        steady = clients.steady
        match op:
            case Create():
                await clients.once.put_object(
                    **self._at(op.key), Body=join(op.body), IfNoneMatch="*"
                )
                return True
            case Put() if size_of(op.body) <= PART_BYTES:
                await steady.put_object(**self._at(op.key), Body=join(op.body))
                return None
            case Put():
                return await self._upload(steady, op.key, _parts_of(op.body))
            case Get() if is_empty(op):
                await steady.head_object(**self._at(op.key))
                return b""
            case Get():
                found = await steady.get_object(**self._at(op.key), **_range(op))
                async with found["Body"] as stream:
                    return await stream.read()
            case GetMany():
                gets = (partial(self._perform, Get(key, end=op.end)) for key in op.keys)
                return await _together(gets, _AT_ONCE)
            case GetIfChanged():
                return await self._get_if_changed(steady, op)
            case Head():
                found = await steady.head_object(**self._at(op.key))
                return Entry(
                    op.key,
                    found["ContentLength"],
                    found["ETag"],
                    int(found["LastModified"].timestamp()),
                )
            case List():
                return await self._list(steady, op)
            case Delete():
                return await self._delete(steady, op.keys)
            case Adopt():
                if op.path.stat().st_size <= PART_BYTES:
                    await steady.put_object(**self._at(op.key), Body=op.path.read_bytes())
                else:
                    await self._upload(steady, op.key, _parts_of_file(op.path))
                op.path.unlink()
                return None

    async def _get_if_changed(self, client: Any, op: GetIfChanged) -> Tagged | Unchanged:
        condition = {"IfNoneMatch": op.etag} if op.etag else {}
        if op.end is not None:
            condition |= _range(Get(op.key, end=op.end))
        found = await client.get_object(**self._at(op.key), **condition)
        async with found["Body"] as stream:
            body = await stream.read()
        # Some services do not recognise the ETag that they gave out, and send the body again.
        return UNCHANGED if found["ETag"] == op.etag else Tagged(body, found["ETag"])

    async def _upload(self, client: Any, key: str, parts: Iterator[bytes]) -> None:
        """Upload in parts, of which only those that travel are in memory."""
        begun = await client.create_multipart_upload(**self._at(key))
        upload = {**self._at(key), "UploadId": begun["UploadId"]}

        async def send(number: int, part: bytes) -> dict[str, Any]:
            sent = await client.upload_part(**upload, PartNumber=number, Body=part)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            sends = (partial(send, number, part) for number, part in enumerate(parts, 1))
            sent = await _together(sends, UPLOADS)
            await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
        except BaseException:
            # Parts of uploads that nobody completes are paid for.
            with suppress(*self._errors):
                await client.abort_multipart_upload(**upload)
            raise

    async def _list(self, client: Any, op: List) -> list[Entry]:
        found: list[Entry] = []
        asked: dict[str, Any] = {
            "Bucket": self._place.bucket,
            "Prefix": self._prefix + op.prefix,
            "MaxKeys": max(1, min(op.limit, _KEYS_PER_REQUEST)),
        }
        if op.after and self._ordered:
            asked["StartAfter"] = self._prefix + op.after
        elif not self._ordered:
            # Express lists only below whole folders, in no order.
            asked["Prefix"] = self._prefix + op.prefix[: op.prefix.rfind("/") + 1]
        while True:
            page = await client.list_objects_v2(**asked)
            for each in page.get("Contents", ()):
                key = each["Key"].removeprefix(self._prefix)
                if key.startswith(op.prefix) and key > op.after:
                    modified_s = int(each["LastModified"].timestamp())
                    found.append(Entry(key, each["Size"], each["ETag"], modified_s))
            if not page.get("IsTruncated") or (self._ordered and len(found) >= op.limit):
                break
            asked["ContinuationToken"] = page["NextContinuationToken"]
        return sorted(found, key=lambda entry: entry.key)[: op.limit]

    async def _delete(self, client: Any, keys: tuple[str, ...]) -> None:
        for at in range(0, len(keys), _KEYS_PER_REQUEST):
            some = [{"Key": self._prefix + key} for key in keys[at : at + _KEYS_PER_REQUEST]]
            if len(some) == 1:
                await client.delete_object(Bucket=self._place.bucket, **some[0])
                continue
            told = await client.delete_objects(
                Bucket=self._place.bucket, Delete={"Objects": some, "Quiet": True}
            )
            refusals = [each for each in told.get("Errors", ()) if each["Code"] != "NoSuchKey"]
            if refusals:
                from botocore.exceptions import ClientError

                raise ClientError({"Error": refusals[0]}, "DeleteObjects")

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._prefix + key}

    async def _connected(self) -> _Clients:
        async with self._connecting:
            if self._clients is None:
                self._clients = await _Clients.connect(self._place)
            return self._clients

    async def _disconnect(self) -> None:
        async with self._connecting:
            clients, self._clients = self._clients, None
        if clients is not None:
            await clients.retire()


class _Clients:
    """The two clients, open until nobody uses them any more."""

    def __init__(self, stack: AsyncExitStack, steady: Any, once: Any) -> None:
        self.steady = steady
        self.once = once
        self._stack = stack
        self._users = 0
        self._retired = False

    @classmethod
    async def connect(cls, place: Place) -> _Clients:
        """Make and open both."""
        async with AsyncExitStack() as stack:
            session = make_session()
            steady = await stack.enter_async_context(make_client(session, place, once=False))
            once = await stack.enter_async_context(make_client(session, place, once=True))
            for client in (steady, once):
                send_at_once(client)
            return cls(stack.pop_all(), steady, once)

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keep both open while something is asked."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_unused()

    async def retire(self) -> None:
        """Close both when what is under way has ended."""
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and not self._users:
            await self._stack.aclose()


async def _together(calls: Iterable[Callable[[], Awaitable[Any]]], at_once: int) -> list[Any]:
    """Await what the calls return, some at once; return their results in order.

    A call is taken only when its turn has come. The first error ends the others.
    """
    results: dict[int, Any] = {}
    numbered = iter(enumerate(calls))

    async def work() -> None:
        for number, call in numbered:
            results[number] = await call()

    tasks = [asyncio.ensure_future(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [results[number] for number in sorted(results)]


def _parts_of(body: Body) -> Iterator[bytes]:
    """Cut a body into parts."""
    part = bytearray()
    for view in views_of(body):
        at = 0
        while at < len(view):
            piece = view[at : at + PART_BYTES - len(part)]
            part += piece
            at += len(piece)
            if len(part) == PART_BYTES:
                yield bytes(part)
                part.clear()
    if part:
        yield bytes(part)


def _parts_of_file(path: Path) -> Iterator[bytes]:
    """Read a file in parts."""
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def _range(op: Get) -> dict[str, str]:
    start, end = range_of(op)
    if end is not None:
        return {"Range": f"bytes={start}-{end - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}
