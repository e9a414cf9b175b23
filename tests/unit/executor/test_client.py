"""What user code in a task submits and gets: stored under its attempt, kept as long as needed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cloudray import ids
from cloudray.executor.client import _MANY_OUTCOMES, Attempt, ExecutorClient
from cloudray.executor.serve import _is_busy
from cloudray.protocol import messages as m
from cloudray.protocol.buffer import Prepared
from cloudray.protocol.records import Verb
from cloudray.store.room import RoomSpec
from tests.unit.agent.bench import JOB, shape_of

BATCH = ids.batch_id(ids.batch_prefix(7, JOB.id, b"driver...."), 0)
CALL = Prepared(shape_of("f"), "py311-cpu1-m0", 5, once=False)


class Sent(list[m.Message]):
    """What a client has sent."""

    def submitted(self) -> list[bytes]:
        return [message.batch.id for message in self if isinstance(message, m.Submit)]


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def client(sent: Sent, tmp_path: Path) -> ExecutorClient:
    setup = m.Setup(JOB, 7, "node", RoomSpec(str(tmp_path)), "log", counting=True)
    return ExecutorClient(sent.append, lambda: None, setup)


def attempt(ticket: int) -> Attempt:
    call = m.Call(ticket, 0, BATCH + ticket.to_bytes(2, "big"), 1, 0, 0)
    return Attempt(call, shape_of("f"), 7, JOB.id)


def submit(client: ExecutorClient) -> Any:
    return client.submit(CALL, b"", b"", (), ())


class Hooked:
    """A lock that lets another thread act whenever it has been given back."""

    def __init__(self, lock: threading.RLock, then: Any) -> None:
        self._lock: Any = lock
        self._then = then

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        then, self._then = self._then, lambda: None
        then()


def test_what_a_thread_submits_between_two_attempts_is_stored(
    client: ExecutorClient, sent: Sent
) -> None:
    client.begin(attempt(1))
    refs = [submit(client)]
    lock: Any = client._lock
    client._lock = Hooked(lock, lambda: refs.append(submit(client)))  # type: ignore[assignment]
    client.begin(attempt(2))
    client.end()
    assert sent.submitted() == [ref.id[: ids.BATCH_ID_BYTES] for ref in refs]


def test_outcomes_to_which_there_are_no_refs_are_forgotten(client: ExecutorClient) -> None:
    client.begin(attempt(1))
    kept = submit(client)
    client.handle(m.Resolved(((kept.id, Verb.DONE, b"kept"),)))
    for number in range(3 * _MANY_OUTCOMES):
        other = ids.object_id(ids.batch_id(BATCH[:21], number), 0)
        client.handle(m.Resolved(((other, Verb.DONE, b"other"),)))
    assert len(client._outcomes) <= _MANY_OUTCOMES + 1
    assert client._outcomes[kept.id].payload == b"kept"


def test_what_is_let_go_of_is_told_while_a_call_runs(client: ExecutorClient, sent: Sent) -> None:
    client.begin(attempt(1))
    ref = submit(client)
    batch = ref.id[: ids.BATCH_ID_BYTES]
    client.escape(ref.id, unseen=False)
    while client.flush_due():
        pass
    client.tell_dropped()
    assert sent.submitted() == [batch]
    del ref
    client.tell_dropped()
    assert sent[1:] == [m.Handles((), (batch,))]


def test_no_interrupt_comes_between_what_is_taken_out_and_its_sending(
    client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[bool] = []

    def send(_: m.Message) -> None:
        frame: FrameType | None = sys._getframe()
        frames.append(_is_busy(frame))

    monkeypatch.setattr(client, "_send", send)
    client.begin(attempt(1))
    ref = submit(client)
    client.escape(ref.id, unseen=True)
    client.tell_handles()
    assert frames == [True, True]
    assert not _is_busy(sys._getframe())
