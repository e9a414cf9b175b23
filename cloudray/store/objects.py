"""Object storage (S3 and what speaks its protocol, Google Cloud Storage, Azure) by obstore.

Two clients: the steady one retries by itself; the one for put-if-absent makes exactly one
attempt, because a retry behind our back would be refused by our own first attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cloudray.platform import on_fork
from cloudray.store.base import (
    Adopt,
    Body,
    Create,
    Delete,
    Entry,
    Get,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
    StoreError,
)
from cloudray.store.bodies import PART_BYTES, check_file, join, range_of, size_of, views_of
from cloudray.store.clients import Place, connect
from cloudray.store.keys import check_key, check_prefix
from cloudray.store.refusals import brief, interpret

if TYPE_CHECKING:
    from obstore import GetOptions, ListStream, ObjectMeta
    from obstore.store import ObjectStore as Client

#: Parts of one large body that travel at once.
UPLOADS = 4
#: Objects of one blocking `GetMany` that travel at once.
READERS = 16


class _Threads:
    """Whether the client library's threads run in this process: a forked child lacks them."""

    started = False
    lost = False

    @classmethod
    def lose(cls) -> None:
        """In a forked child: whoever asked them for anything would wait for ever."""
        cls.lost = cls.started


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
        self._ordered = not place.is_express
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="cloudray-get")
        from obstore.exceptions import BaseError

        try:
            self._steady = connect(place, once=False)
            self._once = connect(place, once=True)
        except (BaseError, ValueError) as error:
            raise StoreError(f"cannot use {url}: {brief(error)}") from error
        self._errors = (BaseError, OSError, ValueError)

    def perform(self, op: Op) -> Any:  # noqa: C901, PLR0911, PLR0912 - a branch for each operation
        """Perform one operation, blocking.

        Raises `TransientStoreError` or `StoreError`; `ValueError` when a key is none.
        """
        import obstore

        _check(op)
        steady = self._steady
        try:
            match op:
                case Create():
                    obstore.put(
                        self._once, op.key, _payload(op.body), mode="create", use_multipart=False
                    )
                    return True
                case Put():
                    obstore.put(steady, op.key, _payload(op.body), **_parts(size_of(op.body)))
                    return None
                case Get() if _is_empty(op):
                    obstore.head(steady, op.key)
                    return b""
                case Get():
                    return obstore.get(steady, op.key, options=_options(op)).bytes().to_bytes()
                case GetMany():
                    return self._get_many(op)
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
        except self._errors as error:
            if isinstance(op, Delete) and len(op.keys) > 1 and isinstance(error, FileNotFoundError):
                # Where there is no bulk deletion, the first absent key ends it.
                for key in op.keys:
                    self.perform(Delete((key,)))
                return None
            return interpret(op, error, self.url)

    async def perform_async(self, op: Op) -> Any:  # noqa: C901, PLR0911, PLR0912 - as perform
        """Perform one operation on the event loop. Raises what `perform` does."""
        import asyncio

        import obstore

        _check(op)
        steady = self._steady
        try:
            match op:
                case Create():
                    await obstore.put_async(
                        self._once, op.key, _payload(op.body), mode="create", use_multipart=False
                    )
                    return True
                case Put():
                    await obstore.put_async(
                        steady, op.key, _payload(op.body), **_parts(size_of(op.body))
                    )
                    return None
                case Get() if _is_empty(op):
                    await obstore.head_async(steady, op.key)
                    return b""
                case Get():
                    found = await obstore.get_async(steady, op.key, options=_options(op))
                    return (await found.bytes_async()).to_bytes()
                case GetMany():
                    gets = (self.perform_async(Get(key)) for key in op.keys)
                    return list(await asyncio.gather(*gets))
                case Head():
                    return _entry(await obstore.head_async(steady, op.key))
                case List():
                    page = _Page(op, ordered=self._ordered)
                    async for chunk in page.stream(steady):
                        if page.is_full_with(chunk):
                            break
                    return page.entries()
                case Delete():
                    if op.keys:
                        await obstore.delete_async(steady, op.keys)
                    return None
                case Adopt():
                    size_bytes = op.path.stat().st_size
                    await obstore.put_async(steady, op.key, op.path, **_parts(size_bytes))
                    op.path.unlink()
                    return None
        except self._errors as error:
            if isinstance(op, Delete) and len(op.keys) > 1 and isinstance(error, FileNotFoundError):
                for key in op.keys:
                    await self.perform_async(Delete((key,)))
                return None
            return interpret(op, error, self.url)

    def close(self) -> None:
        """Stop the threads of `GetMany`."""
        self._threads.shutdown()

    def _get_many(self, op: GetMany) -> list[bytes | None]:
        if len(op.keys) <= 1:
            return [self.perform(Get(key)) for key in op.keys]
        return list(self._threads.map(lambda key: self.perform(Get(key)), op.keys))


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


def _check(op: Op) -> None:
    match op:
        case List():
            check_prefix(op.prefix)
            check_prefix(op.after)
        case GetMany() | Delete():
            for key in op.keys:
                check_key(key)
        case Adopt():
            check_key(op.key)
            check_file(op)
        case Get():
            check_key(op.key)
            range_of(op)
        case _:
            check_key(op.key)


def _payload(body: Body) -> bytes | list[memoryview]:
    return views_of(body) if size_of(body) > PART_BYTES else join(body)


def _parts(size_bytes: int) -> dict[str, Any]:
    return {
        "use_multipart": size_bytes > PART_BYTES,
        "chunk_size": PART_BYTES,
        "max_concurrency": UPLOADS,
    }


def _is_empty(op: Get) -> bool:
    start, end = range_of(op)
    return start == end


def _options(op: Get) -> GetOptions | None:
    start, end = range_of(op)
    if end is not None:
        return {"range": (start, end)}
    return {"range": {"offset": start}} if start else None


def _entry(meta: ObjectMeta) -> Entry:
    etag = meta["e_tag"] or meta["version"] or f"{meta['last_modified'].timestamp()}-{meta['size']}"
    return Entry(meta["path"], meta["size"], etag)
