"""Every store, plain and faulty, blocking and on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from cloudray.store import (
    Delete,
    DirectoryStore,
    Entry,
    FaultPlan,
    Faulty,
    GetMany,
    List,
    MemoryStore,
    Op,
    Reliable,
    SpillingStore,
    Store,
)
from cloudray.store import open_store as open_url
from cloudray.store.botocore_objects import BotocoreStore
from cloudray.store.keys import check_key
from cloudray.store.wrapper import Wrapper
from tests.buckets import bucket, credentials
from tests.servers import Server

BACKENDS = (
    "memory",
    "directory",
    "durable-directory",
    "spilling",
    "roomy",
    "spilled",
    "s3-aiobotocore",
    "localstack",
    "radosgw",
)
#: Below it, keys are those of large values.
OBJECTS = "t7/jobs/job/objects/"
_serial = count()


class Caller(Store):
    """Performs operations by one of a store's two methods."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url = store.url

    def path(self, key: str) -> Path | None:
        return self.store.path(key)

    def perform_together(self, ops: list[Op]) -> list[Any]:
        """Perform operations at the same time."""
        raise NotImplementedError


class OfObjects(Wrapper):
    """A store all of whose keys are those of large values."""

    def perform(self, op: Op) -> Any:
        return _without_prefix(self._store.perform(_with_prefix(op)))

    async def perform_async(self, op: Op) -> Any:
        return _without_prefix(await self._store.perform_async(_with_prefix(op)))

    def path(self, key: str) -> Path | None:
        return self._store.path(OBJECTS + key)


def _with_prefix(op: Op) -> Op:
    match op:
        case List():
            after = OBJECTS + op.after if op.after else ""
            return List(OBJECTS + op.prefix, after, op.limit)
        case GetMany() | Delete():
            for key in op.keys:
                check_key(key)
            return msgspec.structs.replace(op, keys=tuple(OBJECTS + key for key in op.keys))
        case _:
            # The key itself is checked as it stands.
            check_key(op.key)
            return msgspec.structs.replace(op, key=OBJECTS + op.key)


def _without_prefix(answer: Any) -> Any:
    match answer:
        case Entry():
            return msgspec.structs.replace(answer, key=answer.key.removeprefix(OBJECTS))
        case [Entry(), *_]:
            return [_without_prefix(entry) for entry in answer]
    return answer


class Blocking(Caller):
    def perform(self, op: Op) -> Any:
        return self.store.perform(op)

    def perform_together(self, ops: list[Op]) -> list[Any]:
        with ThreadPoolExecutor(len(ops)) as threads:
            return list(threads.map(self.store.perform, ops))


class OnEventLoop(Caller):
    def __init__(self, store: Store, runner: asyncio.Runner) -> None:
        super().__init__(store)
        self.runner = runner

    def perform(self, op: Op) -> Any:
        return self.runner.run(self.store.perform_async(op))

    def perform_together(self, ops: list[Op]) -> list[Any]:
        async def together() -> list[Any]:
            return list(await asyncio.gather(*map(self.store.perform_async, ops)))

        return self.runner.run(together())


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def bucket_url() -> Iterator[Callable[[], str]]:
    """Make URLs of empty places in a bucket of a local S3."""
    with bucket() as url:
        yield lambda: url.replace("?", f"/{next(_serial)}?", 1)


@pytest.fixture(scope="module")
def botocore_place(bucket_url: Callable[[], str]) -> Iterator[Callable[[], Store]]:
    """Show empty places in one store; making another takes longer than most tests."""
    store = open_url(f"{bucket_url()}&client=aiobotocore")
    assert isinstance(store, BotocoreStore)

    def show() -> Store:
        store._prefix = f"botocore-{next(_serial)}/"
        return store

    yield show
    store.close()


@pytest.fixture(params=BACKENDS)
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty raw backend."""
    store: Store
    match request.param:
        case "memory":
            store = MemoryStore()
        case "s3-aiobotocore":
            yield request.getfixturevalue("botocore_place")()
            return
        case "localstack" | "radosgw":
            server: Server = request.getfixturevalue(request.param)
            with credentials():
                store = open_url(server.address(f"contract/{next(_serial)}"))
        case "spilling":
            store = SpillingStore(tmp_path / "store", tmp_path / "disk")
        case "roomy":
            store = OfObjects(SpillingStore(tmp_path / "store", tmp_path / "disk"))
        case "spilled":
            # Memory has room for no value at all.
            store = OfObjects(SpillingStore(tmp_path / "store", tmp_path / "disk", memory_bytes=0))
        case name:
            store = DirectoryStore(tmp_path / "store", durable=name == "durable-directory")
    yield store
    store.close()


@pytest.fixture(params=["blocking", "async"])
def call(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Callable[[Store], Caller]:
    """Choose how a store is called."""
    if request.param == "blocking":
        return Blocking
    return lambda store: OnEventLoop(store, runner)


@pytest.fixture(params=["calm", "faulty"])
def store(request: pytest.FixtureRequest, raw: Store, call: Callable[[Store], Caller]) -> Caller:
    """An empty store as the rest of the package sees one, with faults in it or without."""
    if request.param == "calm":
        return call(Reliable(raw))
    # Each test has faults of its own, and the same ones every time.
    rng = Random(request.node.name)
    faulty = Faulty(raw, rng, FaultPlan.even(0.3))
    return call(Reliable(faulty, rng=rng, sleep=lambda _: None, sleep_async=no_sleep))


def no_sleep(_: float) -> Awaitable[None]:
    return asyncio.sleep(0)
