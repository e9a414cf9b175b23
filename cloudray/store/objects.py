"""Object storage (S3 and what speaks its protocol, Google Cloud Storage, Azure) by obstore.

Two clients: the steady one retries by itself; the one for put-if-absent makes exactly one
attempt, because a retry behind our back would be refused by our own first attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import weakref
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from cloudray.platform import on_fork
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
from cloudray.store.checks import check_op, is_empty
from cloudray.store.clients import UPLOADS, Place, connect
from cloudray.store.refusals import brief, interpret, tells_nothing

if TYPE_CHECKING:
    from obstore import GetOptions, ListStream, ObjectMeta
    from obstore.store import ObjectStore as Client

T = TypeVar("T")

#: Objects of one blocking `GetMany` that travel at once.
READERS = 16
#: So long is waited for the client library's threads to let go of calls that are over.
LETTING_GO_S = 1.0
#: References to the future of a call that is over: its variable's, that of whoever counts, and
#: one that a thread let go of without the interpreter, so that it is not taken off at once.
_LAST_REFERENCES = 3
#: Futures of calls of which the client library's threads may not have let go yet.
_calls: set[weakref.ref[asyncio.Future[Any]]] = set()


class _Threads:
    """Whether the client library's threads run in this process: a forked child lacks them."""

    started = False
    lost = False

    @classmethod
    def lose(cls) -> None:
        """In a forked child: whoever asked them for anything would wait for ever."""
        cls.lost = cls.started
        _calls.clear()


on_fork(_Threads.lose)


class ObjectStore(Store):
    """The objects under one prefix of a bucket."""

    def __init__(self, place: Place, url: str) -> None:
        """Make the clients; no request is sent. `url` names the store as its user typed it.

        Raises `StoreError` when the configuration is not one, and in a process that was forked
        from one that had made clients.
        """
        if _Threads.lost:
            raise StoreError(
                f"cannot use {url} in a process that was forked from one that uses object "
                'storage: start processes with multiprocessing.get_context("spawn"), or join the '
                "cluster only after forking."
            )
        _Threads.started = True
        self.url = url
        self._place = place
        #: whether any request has been answered yet
        self._proven = False
        #: where credentials come from is to be read again
        self._stale = False
        self._ordered = not place.is_express
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="cloudray-get")
        from obstore.exceptions import BaseError

        self._errors = (BaseError, OSError, ValueError)
        self._connect()

    def perform(self, op: Op) -> Any:
        """Perform one operation, blocking.

        Raises `TransientStoreError` or `StoreError`; `ValueError` when a key is none.
        """
        check_op(op)
        try:
            answer = self._do(op)
        except self._errors as error:
            if _ended_early(op, error):
                for key in op.keys:
                    self.perform(Delete((key,)))
                return None
            try:
                return self._interpret(op, error)
            except StoreError as told:
                if not tells_nothing(op, told) or self.perform(Get(op.key, 0, 1)) is not None:
                    raise
                return None
        self._proven = True
        return answer

    def _do(self, op: Op) -> Any:  # noqa: C901, PLR0911, PLR0912 - one each
        import obstore

        if self._stale:
            self._renew()
        steady = self._steady
        match op:
            case Create():
                obstore.put(
                    self._once, op.key, _payload(op.body), mode="create", use_multipart=False
                )
                return True
            case Put():
                obstore.put(steady, op.key, _payload(op.body), **_parts(size_of(op.body)))
                return None
            case Get() if is_empty(op):
                obstore.head(steady, op.key)
                return b""
            case Get():
                return obstore.get(steady, op.key, options=_options(op)).bytes().to_bytes()
            case GetMany():
                return self._get_many(op)
            case GetIfChanged():
                read = obstore.get(steady, op.key, options=_unless(op))
                return _unless_same(op, read.bytes().to_bytes(), read.meta)
            case Head():
                return _entry(obstore.head(steady, op.key))
            case List():
                page = _Page(op, ordered=self._ordered)
                for chunk in page.stream(steady):
                    if page.is_full_with(chunk):
                        break
                return page.entries()
            case Delete():
                if op.keys:
                    obstore.delete(steady, op.keys)
                return None
            case Adopt():
                obstore.put(steady, op.key, op.path, **_parts(op.path.stat().st_size))
                op.path.unlink()
                return None

    async def perform_async(self, op: Op) -> Any:
        """Perform one operation on the event loop. Raises what `perform` does."""
        check_op(op)
        try:
            answer = await self._do_async(op)
        except self._errors as error:
            if _ended_early(op, error):
                for key in op.keys:
                    await self.perform_async(Delete((key,)))
                return None
            try:
                return self._interpret(op, error)
            except StoreError as told:
                if (
                    not tells_nothing(op, told)
                    or await self.perform_async(Get(op.key, 0, 1)) is not None
                ):
                    raise
                return None
        self._proven = True
        return answer

    async def _do_async(self, op: Op) -> Any:  # noqa: C901, PLR0911, PLR0912 - as _do
        import obstore

        if self._stale:
            self._renew()
        steady = self._steady
        match op:
            case Create():
                await _landed(
                    obstore.put_async(
                        self._once, op.key, _payload(op.body), mode="create", use_multipart=False
                    )
                )
                return True
            case Put():
                parts = _parts(size_of(op.body))
                await _landed(obstore.put_async(steady, op.key, _payload(op.body), **parts))
                return None
            case Get() if is_empty(op):
                await _landed(obstore.head_async(steady, op.key))
                return b""
            case Get():
                found = await _landed(obstore.get_async(steady, op.key, options=_options(op)))
                return (await _landed(found.bytes_async())).to_bytes()
            case GetMany():
                gets = (self.perform_async(Get(key, end=op.end)) for key in op.keys)
                return list(await asyncio.gather(*gets))
            case GetIfChanged():
                read = await _landed(obstore.get_async(steady, op.key, options=_unless(op)))
                body = (await _landed(read.bytes_async())).to_bytes()
                return _unless_same(op, body, read.meta)
            case Head():
                return _entry(await _landed(obstore.head_async(steady, op.key)))
            case List():
                page = _Page(op, ordered=self._ordered)
                chunks = page.stream(steady)
                with contextlib.suppress(StopAsyncIteration):
                    while not page.is_full_with(await _landed(anext(chunks))):
                        pass
                return page.entries()
            case Delete():
                if op.keys:
                    await _landed(obstore.delete_async(steady, op.keys))
                return None
            case Adopt():
                parts = _parts(op.path.stat().st_size)
                await _landed(obstore.put_async(steady, op.key, op.path, **parts))
                op.path.unlink()
                return None

    def _interpret(self, op: Op, error: Exception) -> Any:
        try:
            return interpret(op, error, self.url, self._place, proven=self._proven)
        except CredentialsError:
            self._stale = True
            raise

    def _renew(self) -> None:
        """Read again where credentials come from: whoever was told to renew them may have."""
        self._stale = False
        try:
            self._connect()
        except StoreError:
            # Half written, say: it is read again next time.
            self._stale = True

    def _connect(self) -> None:
        try:
            steady, once = connect(self._place, once=False), connect(self._place, once=True)
        except self._errors as error:
            raise StoreError(f"cannot use {self.url}: {brief(error)}") from error
        self._steady, self._once = steady, once

    def close(self) -> None:
        """Stop the threads of `GetMany`, and wait until calls that are over are let go of."""
        self._threads.shutdown()
        deadline_s = time.monotonic() + LETTING_GO_S
        while any(map(_is_lingering, _calls.copy())) and time.monotonic() < deadline_s:
            time.sleep(0.001)

    def _get_many(self, op: GetMany) -> list[bytes | None]:
        if len(op.keys) <= 1:
            return [self.perform(Get(key, end=op.end)) for key in op.keys]
        return list(self._threads.map(lambda key: self.perform(Get(key, end=op.end)), op.keys))


async def _landed(call: Awaitable[T]) -> T:
    """Await what the client library does; once this is cancelled, it has let go.

    Its threads come back to the interpreter for a call that was cancelled, some time later; and
    the one that brings an answer is still on its way out when that is here. One that comes while
    the interpreter ends aborts the process, whatever its exit status was to be. For those that
    bring answers `ObjectStore.close` waits, so that no request does.
    """
    future = asyncio.ensure_future(call)
    del call
    _calls.add(weakref.ref(future, _calls.discard))
    try:
        return await future
    except asyncio.CancelledError:
        deadline_s = time.monotonic() + LETTING_GO_S
        # Nothing but the count of references tells when its threads have dropped theirs.
        while sys.getrefcount(future) > _LAST_REFERENCES:
            if time.monotonic() > deadline_s:
                break
            await asyncio.sleep(0.001)
        raise
    finally:
        # An error that is kept would keep this frame.
        del future


def _is_lingering(call: weakref.ref[asyncio.Future[Any]]) -> bool:
    """Whether a call is over, and a thread of the client library has not let go of it."""
    future = call()
    return future is not None and future.done() and sys.getrefcount(future) > _LAST_REFERENCES


class _Page:
    """A listing under way.

    obstore takes a prefix only as whole parts of a key, so the rest of it is looked for here,
    beginning just below the first key that it can be of.
    """

    def __init__(self, op: List, *, ordered: bool) -> None:
        self._op = op
        self._ordered = ordered
        self._found: list[Entry] = []

    def stream(self, client: Client) -> ListStream[Sequence[ObjectMeta]]:
        import obstore

        op = self._op
        folder, _, name = op.prefix.rpartition("/")
        below = _just_below(op.prefix) if name else ""
        offset = max(op.after, below)
        return obstore.list(
            client, folder or None, offset=offset or None, chunk_size=max(1, min(op.limit, 1000))
        )

    def is_full_with(self, chunk: Sequence[ObjectMeta]) -> bool:
        op = self._op
        for meta in chunk:
            key = meta["path"]
            if key.startswith(op.prefix):
                if key > op.after:
                    self._found.append(_entry(meta))
            elif self._ordered and key > op.prefix:
                return True
        return self._ordered and len(self._found) >= op.limit

    def entries(self) -> list[Entry]:
        return sorted(self._found, key=lambda entry: entry.key)[: self._op.limit]


def _just_below(prefix: str) -> str:
    # Some string that sorts before all keys with this prefix, and after most of those before.
    before = chr(ord(prefix[-1]) - 1)
    return f"{prefix[:-1]}{'.' if before == '/' else before}~"


def _ended_early(op: Op, error: Exception) -> TypeGuard[Delete]:
    """Whether deletions ended at an absent key, as they do where they are single requests."""
    return isinstance(op, Delete) and len(op.keys) > 1 and isinstance(error, FileNotFoundError)


def _payload(body: Body) -> bytes | list[memoryview]:
    return views_of(body) if size_of(body) > PART_BYTES else join(body)


def _parts(size_bytes: int) -> dict[str, Any]:
    return {
        "use_multipart": size_bytes > PART_BYTES,
        "chunk_size": PART_BYTES,
        "max_concurrency": UPLOADS,
    }


def _options(op: Get) -> GetOptions | None:
    start, end = range_of(op)
    if end is not None:
        return {"range": (start, end)}
    return {"range": {"offset": start}} if start else None


def _unless(op: GetIfChanged) -> GetOptions | None:
    options: GetOptions = {}
    if op.etag:
        options["if_none_match"] = op.etag
    if op.end is not None:
        options["range"] = (0, op.end)
    return options or None


def _unless_same(op: GetIfChanged, body: bytes, meta: ObjectMeta) -> Tagged | Unchanged:
    # Some services do not recognise the ETag that they gave out, and send the body again.
    etag = _etag(meta)
    return UNCHANGED if etag == op.etag else Tagged(body, etag)


def _entry(meta: ObjectMeta) -> Entry:
    return Entry(meta["path"], meta["size"], _etag(meta), int(meta["last_modified"].timestamp()))


def _etag(meta: ObjectMeta) -> str:
    modified = meta["last_modified"].timestamp()
    return meta["e_tag"] or meta["version"] or f"{modified}-{meta['size']}"
