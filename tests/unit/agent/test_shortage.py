from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cloudray.agent.io import Io
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch, Verb, Word
from cloudray.store import Create, MemoryStore, Op, Put, RoomSpec, StoreFullError, layout
from cloudray.store.base import Adopt
from cloudray.store.bodies import size_of
from cloudray.values import codec
from cloudray.values.outcomes import load
from tests.unit.agent.bench import SETTINGS, VALUE, Bench, Remote, batch_of, name_of, ref
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import done

LARGE = codec.dumps(bytes(50_000)).to_bytes()


class Tight(MemoryStore):
    """A store with little room: for how many bytes, under which keys."""

    def __init__(self) -> None:
        super().__init__()
        self.free_bytes: float = float("inf")
        self.where = ""

    def perform(self, op: Op) -> Any:
        if isinstance(op, (Create, Put)) and self.where in op.key:
            size_bytes = size_of(op.body)
            if size_bytes > self.free_bytes:
                raise StoreFullError(f"no space left while writing {op.key}")
            self.free_bytes -= size_bytes
        return super().perform(op)


class TightRemote(Tight, Remote):
    """Far away, with little room."""


@pytest.fixture(params=[Tight, TightRemote], ids=["inline", "remote"])
def store(request: pytest.FixtureRequest) -> Tight:
    tight: Tight = request.param()
    return tight


@pytest.fixture
def bench(make_bench: Make, store: Tight) -> Bench:
    return make_bench(store=store)


def error_in(word: Word) -> BaseException:
    assert word.verb is Verb.FAILED
    error = load(word.values[0])
    assert isinstance(error, BaseException)
    return error


async def end_all(bench: Bench, *values: bytes) -> None:
    """Let executors end their calls with these values, in order."""
    left = list(values)
    while left:
        for executor in bench.executors:
            for call in executor.queue[: len(left)]:
                executor.end(call, values=(left.pop(0),))
        await bench.settle()


# -- words ---------------------------------------------------------------------------------


async def test_a_result_without_room_is_a_failure_that_names_its_task(
    bench: Bench, store: Tight
) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    store.where, store.free_bytes = "/results/", 2000
    await end_all(bench, LARGE)
    (word,) = bench.said(batch)
    error = error_in(word)
    assert isinstance(error, ObjectStoreFullError)
    assert "The result of f (50.0 KB) could not be stored: no space left" in str(error)
    assert not bench.holdings.has(batch.id)


async def test_what_there_is_room_for_is_published_as_it_is(bench: Bench, store: Tight) -> None:
    batch = batch_of(4)
    await bench.hold(batch)
    store.where, store.free_bytes = "/results/", 110_000
    await end_all(bench, LARGE, VALUE, LARGE, LARGE)
    words = {word.index: word for word in bench.said(batch)}
    whole = [index for index, word in words.items() if word.verb is Verb.DONE]
    assert len(words) == 4
    assert len(whole) == 3
    for word in words.values():
        if word.index not in whole:
            assert isinstance(error_in(word), ObjectStoreFullError)


async def test_without_room_for_even_that_it_is_tried_again(bench: Bench, store: Tight) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    store.where, store.free_bytes = "/results/", 0
    await end_all(bench, LARGE)
    await asyncio.sleep(3 * SETTINGS.lease_s)
    assert bench.said(batch) == []
    # By now there is room for the result itself.
    store.free_bytes = float("inf")
    await asyncio.sleep(2 * SETTINGS.lease_s)
    assert bench.said(batch) == [done(0, LARGE)]


async def test_words_that_fit_are_told_although_others_must_wait(
    make_bench: Make, store: Tight
) -> None:
    bench = make_bench(cpus=1, store=store)
    bench.measure(100)
    batch = batch_of(2)
    await bench.hold(batch)
    heard: list[tuple[int, bytes]] = []
    for index in range(2):
        bench.resolver.want(ref(batch, index), lambda verb, value: heard.append((verb, value)))
    store.where, store.free_bytes = "/results/", len(LARGE) + 250
    (executor,) = bench.executors
    executor.end(*executor.queue, values=(LARGE,))
    await asyncio.sleep(3 * SETTINGS.lease_s)
    assert heard == [(Verb.DONE, LARGE)]
    store.free_bytes = float("inf")
    await asyncio.sleep(2 * SETTINGS.lease_s)
    assert heard == [(Verb.DONE, LARGE)] * 2
    assert not bench.holdings.has(batch.id)


# -- what tasks submit ---------------------------------------------------------------------


def submit(batch: Batch) -> m.Submit:
    name = name_of(batch)
    return m.Submit(name.klass, name.priority, name.estimated_ms, batch)


async def test_a_batch_of_a_task_that_there_is_no_room_for_fails(
    bench: Bench, store: Tight
) -> None:
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    child = batch_of(30, number=7)
    store.where, store.free_bytes = layout.QUEUE, 0
    executor.say(submit(child))
    await bench.settle()
    assert layout.claim_of(name_of(child).stem, 0) not in bench.keys(layout.QUEUE)
    words = bench.said(child)
    assert [word.index for word in words] == list(range(30))
    error = error_in(words[0])
    assert isinstance(error, ObjectStoreFullError)
    assert str(error).startswith("f could not be submitted: no space left")


async def test_whoever_waits_for_it_is_told(bench: Bench, store: Tight) -> None:
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    child = batch_of(1, number=7)
    store.where, store.free_bytes = layout.QUEUE, 0
    executor.say(submit(child))
    executor.say(m.Want((ref(child),)))
    await asyncio.sleep(5)
    ((_, verb, payload),) = executor.of(m.Resolved)[0].outcomes
    assert verb == Verb.FAILED
    assert isinstance(load(payload), ObjectStoreFullError)


async def test_a_batch_that_cannot_even_fail_is_submitted_later(bench: Bench, store: Tight) -> None:
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    child = batch_of(1, number=7)
    store.free_bytes = 0
    executor.say(submit(child))
    await asyncio.sleep(5)
    assert bench.said(child) == []
    store.free_bytes = float("inf")
    await asyncio.sleep(5)
    assert bench.holdings.has(child.id)


# -- the agent goes on ---------------------------------------------------------------------


async def test_heartbeats_go_on_when_there_is_room_again(bench: Bench, store: Tight) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(bench.agent.run(stop))
    await bench.settle()
    store.free_bytes = 0
    await asyncio.sleep(10 * SETTINGS.lease_s)
    (before,) = bench.store.list(layout.AGENTS)
    store.free_bytes = float("inf")
    await asyncio.sleep(SETTINGS.lease_s)
    (after,) = bench.store.list(layout.AGENTS)
    assert after.etag != before.etag
    stop.set()
    await running


def test_that_a_store_is_full_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    io = Io(MemoryStore())
    for _ in range(5):
        io.complain(StoreFullError("no space left"))
    assert caplog.text.count("no space left") == 1


async def test_executors_start_although_memory_is_full(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    bench.workers.folder_when_full = elsewhere
    write_bytes = Path.write_bytes

    def full(path: Path, body: bytes) -> int:
        if path.parent == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, body)

    monkeypatch.setattr(Path, "write_bytes", full)
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    assert len(executor.calls) == 1
    assert len(list(elsewhere.iterdir())) == 1


# -- files of executors --------------------------------------------------------------------


async def test_executors_are_told_where_to_write(bench: Bench, tmp_path: Path) -> None:
    await bench.hold(batch_of(1))
    (setup,) = bench.executors[0].of(m.Setup)
    assert setup.room == RoomSpec(str(tmp_path))
    assert bench.agent.room.spec == setup.room


async def test_what_a_killed_executor_was_writing_goes(bench: Bench, tmp_path: Path) -> None:
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    unfinished = tmp_path / "new" / f"{executor.pid}-0-100"
    of_another = tmp_path / "new" / f"{executor.pid + 1}-0-100"
    for path in (unfinished, of_another):
        path.write_bytes(b"part")
    executor.die()
    await bench.settle()
    assert not unfinished.exists()
    assert of_another.exists()


async def test_a_value_is_adopted_before_its_executor_s_files_go(
    make_bench: Make, tmp_path: Path
) -> None:
    bench = make_bench()
    await bench.hold(batch_of(1))
    (executor,) = bench.executors
    kept, lost = (tmp_path / "done" / f"{executor.pid}-{number}-9" for number in range(2))
    for path in (kept, lost):
        path.write_bytes(bytes(64) + b"value")
    identifier = ref(batch_of(1, number=9))
    executor.say(m.Keep(identifier, str(kept)))
    executor.die()
    await bench.settle()
    assert bench.store.get(layout.put_object(identifier)) == bytes(64) + b"value"
    assert not lost.exists()


async def test_what_cannot_be_adopted_yet_is_tried_again(make_bench: Make, tmp_path: Path) -> None:
    class Full(MemoryStore):
        full = True

        def perform(self, op: Op) -> Any:
            if self.full and isinstance(op, Adopt):
                raise StoreFullError("no space left")
            return super().perform(op)

    store = Full()
    bench = make_bench(store=store)
    await bench.hold(batch_of(1))
    path = tmp_path / "value"
    path.write_bytes(b"value")
    identifier = ref(batch_of(1, number=9))
    bench.executors[0].say(m.Keep(identifier, str(path)))
    await asyncio.sleep(3)
    assert bench.store.get(layout.put_object(identifier)) is None
    store.full = False
    await asyncio.sleep(3)
    assert bench.store.get(layout.put_object(identifier)) == b"value"
