from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cloudray import ids, platform
from cloudray.api.options import TaskOptions
from cloudray.driver.client import DriverClient
from cloudray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    RaySystemError,
    TaskCancelledError,
)
from cloudray.protocol import messages as m
from cloudray.protocol.buffer import Prepared
from cloudray.protocol.records import Batch, Code, Entry, Verb, Word, seal, unseal
from cloudray.refs import ObjectRef
from cloudray.store import Counting, Create, Get, Ledger, MemoryStore, Op, Put, Reliable, layout
from cloudray.store.base import StoreFullError
from cloudray.store.layout import claim_of
from cloudray.values import codec
from cloudray.values.outcomes import error_payload
from tests.unit.agent.bench import JOB, SETTINGS, digest_of, shape_of
from tests.unit.driver.gated import becomes
from tests.unit.protocol.builders import moved

LIMIT_S = 60.0
STRANGE_ID = ids.batch_id(ids.batch_prefix(7, b"strange...", b"submitter."), 0)


class Watched(MemoryStore):
    """A store that lets the test act when something is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self._when: list[tuple[Callable[[Op], bool], Callable[[], None]]] = []
        self.queued = threading.Event()

    def when(self, matches: Callable[[Op], bool], act: Callable[[], None]) -> None:
        """Do something, once, before an operation that matches."""
        self._when.append((matches, act))

    def perform(self, op: Op) -> Any:
        for pair in list(self._when):
            matches, act = pair
            if matches(op) and pair in self._when:
                self._when.remove(pair)
                act()
        answer = super().perform(op)
        if isinstance(op, Create) and op.key.startswith(layout.QUEUE):
            self.queued.set()
        return answer


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def client(store: Watched, ledger: Ledger) -> Iterator[DriverClient]:
    """A driver that reaches no agent."""
    client = DriverClient(
        Reliable(Counting(store, ledger)), ledger, SETTINGS, JOB, days=7, log_to_driver=False
    )
    yield client
    client.close()


def prepared(name: str = "f", num_returns: int = 1) -> Prepared:
    return Prepared(shape_of(name, num_returns=num_returns), "py311-cpu1-m0", 5, once=False)


def submit(client: DriverClient, call: Prepared | None = None, *refs: ObjectRef[Any]) -> Any:
    return client.submit(call or prepared(), b"", b"", tuple(ref.id for ref in refs), ())


def queued(store: MemoryStore) -> list[Batch]:
    """The batches that have been stored, in the order of their numbers."""
    batches = []
    for entry in store.list(layout.QUEUE):
        body = store.get(entry.key)
        assert body is not None
        batches.append(unseal(Batch, body, entry.key))
    return sorted(batches, key=lambda batch: batch.id)


def write(store: MemoryStore, ref: bytes, *words: Word, number: int = 0) -> None:
    """Write an entry into the journal of a ref's batch."""
    key = f"{layout.journal(ref[: ids.BATCH_ID_BYTES])}{number}"
    store.put(key, seal(Entry(1, words)))


def done(index: int, value: object) -> Word:
    return Word(index, Verb.DONE, (codec.dumps(value).to_bytes(),))


def failed(index: int, error: Exception) -> Word:
    return Word(index, Verb.FAILED, (error_payload(error),))


def looks_at(ref: bytes) -> Callable[[Op], bool]:
    """Whether an operation reads the journal of a ref's batch."""
    journal = layout.journal(ref[: ids.BATCH_ID_BYTES])
    return lambda op: isinstance(op, Get) and op.key.startswith(journal)


def answer(store: Watched, ref: ObjectRef[Any], *words: Word) -> None:
    """Let somebody write words as soon as the driver has once looked in vain."""
    looks = looks_at(ref.id)
    store.when(looks, lambda: store.when(looks, lambda: write(store, ref.id, *words)))


# -- submitting ----------------------------------------------------------------------------


def test_calls_wait_for_company(client: DriverClient, store: Watched) -> None:
    with client._lock:
        for _ in range(10):
            submit(client)
        assert queued(store) == []
    client.flush()
    (batch,) = queued(store)
    assert len(batch.tasks) == 10


def test_but_not_for_long(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    assert store.queued.wait(LIMIT_S)
    (batch,) = queued(store)
    assert ref.id.startswith(batch.id)


@pytest.mark.parametrize(
    "wait",
    [
        lambda client, ref: client.wait([ref], 1, 0),
        lambda client, ref: client.future(ref),
        lambda client, ref: client.escape(ref.id, unseen=False),
        lambda client, ref: client.cancel(ref, force=False, recursive=True),
    ],
    ids=["wait", "future", "escape", "cancel"],
)
def test_what_somebody_waits_for_is_stored_at_once(
    client: DriverClient, store: Watched, wait: Callable[[DriverClient, ObjectRef[Any]], Any]
) -> None:
    with client._lock:
        ref = submit(client)
        wait(client, ref)
        assert len(queued(store)) == 1


def test_an_escaping_ref_takes_no_other_batch_along(client: DriverClient, store: Watched) -> None:
    other = Prepared(shape_of("g"), "py311-cpu2-m0", 5, once=False)
    with client._lock:
        ref = submit(client)
        submit(client, other)
        client.escape(ref.id, unseen=False)
        assert len(queued(store)) == 1


def test_a_value_of_somebody_else_can_escape(client: DriverClient) -> None:
    client.escape(ids.object_id(STRANGE_ID, 0), unseen=True)


def test_a_call_has_as_many_refs_as_values(client: DriverClient) -> None:
    assert submit(client, prepared(num_returns=0)) is None
    first, second = submit(client, prepared(num_returns=2))
    assert (ids.return_of(first.id), ids.return_of(second.id)) == (0, 1)


class Function:
    """A function that has been pickled once."""

    def prepared(self, options: object, code: Code) -> tuple[Prepared, bytes]:
        del options, code
        return prepared(), b"pickled"


def test_a_function_is_uploaded_once(client: DriverClient, ledger: Ledger) -> None:
    for _ in range(3):
        client.prepare(Function(), TaskOptions())
    assert ledger == Ledger(put=1)
    assert client.store.get(layout.blob(client._prefix, digest_of("f"))) is not None


def test_a_call_that_is_stored_at_once_is_followed(client: DriverClient) -> None:
    call = Prepared(shape_of(max_retries=0), "py311-cpu1-m0", 5, once=True)
    ref = submit(client, call)
    assert ref.id[: ids.BATCH_ID_BYTES] in client._following.results.journals


# -- getting -------------------------------------------------------------------------------


def test_a_value_is_found_without_any_hint(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    answer(store, ref, done(0, "value"))
    assert client.get([ref], LIMIT_S) == ["value"]


def test_values_come_in_the_order_of_their_refs(client: DriverClient, store: Watched) -> None:
    refs = [submit(client) for _ in range(3)]
    answer(store, refs[0], done(2, "third"), done(0, "first"), done(1, "second"))
    assert client.get([refs[2], refs[0], refs[1]], LIMIT_S) == ["third", "first", "second"]


def test_a_value_that_is_known_is_not_read_again(
    client: DriverClient, store: Watched, ledger: Ledger
) -> None:
    ref = submit(client)
    answer(store, ref, done(0, "value"))
    client.get([ref], LIMIT_S)
    before = ledger.as_dict()
    assert client.get([ref, ref], None) == ["value", "value"]
    assert ledger.subtract(before) == Ledger()


def test_the_first_error_ends_the_wait(client: DriverClient, store: Watched) -> None:
    refs = [submit(client) for _ in range(3)]
    answer(store, refs[0], failed(1, ObjectLostError("0a1b")))
    with pytest.raises(ObjectLostError):
        client.get(refs, LIMIT_S)


def test_a_task_that_went_elsewhere_is_followed(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    there = ids.object_id(STRANGE_ID[:11] + ref.id[11:21] + b"\0\0\0\x63", 4)
    write(store, there, done(4, "there"))
    answer(store, ref, moved(0, there[: ids.BATCH_ID_BYTES], 4))
    assert client.get([ref], LIMIT_S) == ["there"]


def test_when_the_time_is_up_what_is_missing_is_named(client: DriverClient) -> None:
    ref = submit(client)
    with pytest.raises(GetTimeoutError) as raised:
        client.get([ref], 0.0)
    assert raised.value.pending == (f"{ids.short(ref.id)}: pending",)


def test_a_wait_that_ends_without_its_values_is_an_error(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = submit(client)
    monkeypatch.setattr(client._waiting, "_listen_until", lambda *_: None)
    with pytest.raises(RaySystemError, match=f"1 of them are not there .{ids.short(ref.id)}"):
        client.get([ref], None)


def test_a_value_of_another_driver_is_found(client: DriverClient, store: Watched) -> None:
    store.put(layout.meta(STRANGE_ID), seal(JOB))
    identifier = ids.object_id(STRANGE_ID, 0)
    write(store, identifier, done(0, "strange"))
    assert client.get([ObjectRef(identifier)], LIMIT_S) == ["strange"]


def test_a_value_of_a_job_that_is_gone_is_lost(client: DriverClient) -> None:
    with pytest.raises(ObjectLostError, match="its job was deleted"):
        client.get([ObjectRef(ids.object_id(STRANGE_ID, 0))], LIMIT_S)


def test_a_task_that_was_cancelled_says_so(client: DriverClient) -> None:
    ref = submit(client)
    client.cancel(ref, force=False, recursive=True)
    with pytest.raises(TaskCancelledError):
        client.get([ref], LIMIT_S)


# -- values that were put ------------------------------------------------------------------


def test_a_value_that_was_put_can_be_got(client: DriverClient) -> None:
    serialized = codec.dumps({"a": [1, 2]})
    ref = client.store_value(serialized.parts, ())
    assert client.get([ref], None) == [{"a": [1, 2]}]


def test_each_has_an_id_of_its_own(client: DriverClient) -> None:
    parts = codec.dumps(1).parts
    assert client.store_value(parts, ()) != client.store_value(parts, ())


def test_one_that_is_gone_is_lost(client: DriverClient) -> None:
    identifier = ids.object_id(STRANGE_ID, ids.PUT_INDEX)
    with pytest.raises(ObjectLostError, match="no such job"):
        client.get([ObjectRef(identifier)], None)


def test_refs_to_values_that_were_put_keep_nothing_alive(client: DriverClient) -> None:
    assert client.store_value(codec.dumps(1).parts, ()).anchor is None


# -- the job's end ---


def test_what_comes_after_the_jobs_time_is_refused_with_a_sentence(
    client: DriverClient, store: Watched
) -> None:
    assert client._submitting._retention is not None
    client._submitting._retention._over_s = platform.monotonic_s()
    with pytest.raises(RaySystemError, match=r"kept for 7 days .* cloudray.init\(\)"):
        submit(client)
    with pytest.raises(RaySystemError, match="kept for 7 days"):
        _ = client.store_value(codec.dumps(1).parts, ())
    client.flush()
    assert queued(store) == []


def test_a_driver_that_has_just_submitted_notices_too_that_its_time_is_up(
    client: DriverClient,
) -> None:
    _ = submit(client)
    client.flush()
    assert client._submitting._retention is not None
    client._submitting._retention._over_s = platform.monotonic_s()
    with pytest.raises(RaySystemError, match="kept for 7 days"):
        submit(client)


# -- waiting -------------------------------------------------------------------------------


def test_refs_are_split_into_ready_and_not_ready(client: DriverClient, store: Watched) -> None:
    refs = [submit(client) for _ in range(4)]
    answer(store, refs[0], done(3, 3), done(1, 1))
    ready, rest = client.wait(refs, 2, LIMIT_S)
    assert (ready, rest) == ([refs[1], refs[3]], [refs[0], refs[2]])


def test_no_more_are_ready_than_were_asked_for(client: DriverClient, store: Watched) -> None:
    refs = [submit(client) for _ in range(3)]
    answer(store, refs[0], *(done(index, index) for index in range(3)))
    ready, rest = client.wait(refs, 1, LIMIT_S)
    assert (ready, rest) == ([refs[0]], refs[1:])


def test_a_task_that_failed_is_ready(client: DriverClient, store: Watched) -> None:
    refs = [submit(client) for _ in range(2)]
    answer(store, refs[0], failed(1, ObjectLostError("0a1b")))
    assert client.wait(refs, 1, LIMIT_S) == ([refs[1]], [refs[0]])


@pytest.mark.parametrize("timeout_s", [0.0, LIMIT_S])
def test_a_task_of_another_driver_is_ready_at_the_first_look(
    client: DriverClient, store: Watched, timeout_s: float
) -> None:
    store.put(layout.meta(STRANGE_ID), seal(JOB))
    ref: ObjectRef[Any] = ObjectRef(ids.object_id(STRANGE_ID, 0))
    write(store, ref.id, done(0, "strange"))
    assert client.wait([ref], 1, timeout_s) == ([ref], [])


def test_when_the_time_is_up_nothing_may_be_ready(client: DriverClient) -> None:
    ref = submit(client)
    assert client.wait([ref], 1, 0.0) == ([], [ref])


# -- futures -------------------------------------------------------------------------------


def test_a_future_ends_while_nobody_waits(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    answer(store, ref, done(0, "value"))
    assert client.future(ref).result(LIMIT_S) == "value"


def test_a_future_of_a_value_that_is_there_has_ended(client: DriverClient) -> None:
    ref = client.store_value(codec.dumps(1).parts, ())
    assert client.future(ref).done()


def test_a_future_outlives_its_ref(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    answer(store, ref, done(0, "value"))
    future = client.future(ref)
    del ref
    gc.collect()
    assert future.result(LIMIT_S) == "value"


def test_a_callback_may_use_the_cluster(client: DriverClient, store: Watched) -> None:
    ref, other = submit(client), submit(client)
    got: Future[list[Any]] = Future()
    answer(store, ref, done(0, "value"), done(1, "other"))
    client.future(ref).add_done_callback(lambda _: got.set_result(client.get([other], LIMIT_S)))
    assert got.result(LIMIT_S) == ["other"]


def test_a_cancelled_future_is_listened_for_no_more(client: DriverClient, store: Watched) -> None:
    store.put(layout.meta(client._prefix), seal(JOB))  # else it is lost after a while
    future = client.future(submit(client))
    assert client._pump.eager
    future.cancel()
    assert becomes(lambda: not client._promises)
    assert becomes(lambda: not client._pump.eager)


def test_a_cancelled_future_takes_no_other_one_of_its_value_along(
    client: DriverClient, store: Watched
) -> None:
    ref = submit(client)
    cancelled, kept = client.future(ref), client.future(ref)
    cancelled.cancel()
    assert becomes(lambda: not client._promises.has_cancelled)
    client.flush()
    write(store, ref.id, done(0, "value"))
    assert kept.result(LIMIT_S) == "value"


def test_a_ref_that_is_awaited_no_more_is_listened_for_no_more(
    client: DriverClient, store: Watched
) -> None:
    store.put(layout.meta(client._prefix), seal(JOB))  # else it is lost after a while
    ref = submit(client)

    async def give_up() -> None:
        waiting = asyncio.wrap_future(client.future(ref))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    assert becomes(lambda: not client._pump.eager)


# -- forgetting ----------------------------------------------------------------------------


def test_a_batch_is_forgotten_with_its_last_ref(client: DriverClient) -> None:
    refs = [submit(client) for _ in range(3)]
    client.flush()
    (batch,) = client._following.results.journals
    refs.clear()
    submit(client, Prepared(shape_of("g"), "py311-cpu2-m0", 5, once=False))
    gc.collect()
    client._tick()
    assert batch not in client._following.results.journals


def test_a_ref_from_elsewhere_keeps_a_batch_alive(client: DriverClient) -> None:
    anchor = client.anchor(ids.object_id(STRANGE_ID, 0))
    assert anchor is client.anchor(ids.object_id(STRANGE_ID, 1))


# -- the end -------------------------------------------------------------------------------


def test_what_was_submitted_is_stored_before_the_driver_leaves(
    client: DriverClient, store: Watched
) -> None:
    submit(client)
    client.close()
    assert len(queued(store)) == 1


def test_leaving_twice_is_no_error(client: DriverClient) -> None:
    client.close()
    client.close()


def test_who_waits_while_the_driver_leaves_is_told(client: DriverClient, store: Watched) -> None:
    ref = submit(client)
    errors: list[BaseException] = []
    waits = threading.Event()
    store.when(looks_at(ref.id), waits.set)

    def wait() -> None:
        try:
            client.get([ref], None)
        except RaySystemError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(LIMIT_S)
    client.close()
    thread.join(LIMIT_S)
    assert "shut down" in str(errors[0])


def test_futures_that_are_pending_when_the_driver_leaves_end_with_an_error(
    client: DriverClient,
) -> None:
    future = client.future(submit(client))
    client.close()
    with pytest.raises(RaySystemError, match="shut down"):
        future.result(LIMIT_S)


# -- facts ---------------------------------------------------------------------------------


def test_the_driver_says_who_it_is(client: DriverClient) -> None:
    facts = client.identity()
    assert (facts["job_id"], facts["namespace"]) == (JOB.id.hex(), "space")
    assert facts["worker_mode"] == "driver"


def test_requests_are_counted(client: DriverClient) -> None:
    before = client.requests()
    client.store.perform(Put("key", b""))
    assert client.requests().subtract(before.as_dict()) == Ledger(put=1)


def test_without_agents_there_are_no_nodes(client: DriverClient) -> None:
    assert client.nodes() == []


def test_a_batch_is_named_as_it_is_claimed(client: DriverClient, store: Watched) -> None:
    submit(client)
    client.flush()
    (batch,) = queued(store)
    (entry,) = store.list(layout.QUEUE)
    parsed = layout.parse_queue(entry.key)
    assert parsed is not None
    name = layout.parse_stem(parsed[0])
    assert name is not None
    assert claim_of(name.stem, 0) == entry.key
    assert (name.batch, name.size) == (batch.id, 1)


def test_a_wait_for_nothing_ends_at_once(client: DriverClient, ledger: Ledger) -> None:
    assert client.get([], None) == []
    assert client.wait([], 0, None) == ([], [])
    assert ledger == Ledger()


def test_a_future_of_a_value_that_its_task_did_not_return_says_so(
    client: DriverClient, store: Watched
) -> None:
    ref = submit(client)
    missing: ObjectRef[Any] = ObjectRef(ref.id[:-1] + b"\7", ref.anchor)
    futures = [client.future(missing), client.future(ref)]
    write(store, ref.id, done(0, "here"))
    assert futures[1].result(LIMIT_S) == "here"
    with pytest.raises(ObjectLostError, match="its task returned 1 values"):
        futures[0].result(LIMIT_S)


def test_a_batch_that_finds_no_room_is_not_followed(client: DriverClient, store: Watched) -> None:
    def refuse() -> None:
        raise StoreFullError("full")

    store.when(lambda op: isinstance(op, Create), refuse)
    once = Prepared(shape_of(max_retries=0), "py311-cpu1-m0", 5, once=True)
    with pytest.raises(ObjectStoreFullError):
        submit(client, once)
    following = client._following
    assert not following.names
    assert not following.results.journals
    assert not following._open
    assert client.get([submit_done(client, store, once)], LIMIT_S) == ["here"]


def submit_done(client: DriverClient, store: Watched, call: Prepared) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = submit(client, call)
    write(store, ref.id, done(0, "here"))
    return ref


def test_a_message_that_ctrl_c_kept_from_being_handled_is_handled_later(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[m.Message] = []
    first, second = m.Left("first"), m.Left("second")
    peer: Any = None
    heard = iter([[(peer, first), (peer, second)]])

    def handle(_: object, message: m.Message) -> None:
        if message is first and not tried:
            tried.append(message)
            raise KeyboardInterrupt
        handled.append(message)

    tried: list[m.Message] = []
    monkeypatch.setattr(
        client._peers, "listen", lambda _, take: [take(each) for each in next(heard, [])]
    )
    monkeypatch.setattr(client._hearing, "_handle", handle)
    with pytest.raises(KeyboardInterrupt):
        client._turn(0.0)
    client._turn(0.0)
    assert handled == [first, second]
