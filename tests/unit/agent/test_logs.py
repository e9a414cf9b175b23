from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.agent.io import Io
from cloudray.agent.logs import Logs
from cloudray.protocol.messages import Line
from cloudray.store import MemoryStore, Store, envelope
from tests.unit.agent.bench import JOB

OTHER_JOB = b"other job."


def line(text: str, name: str = "f") -> Line:
    return Line(name, 42, text, is_error=False)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("file:///shared/cluster/?durable=false")


@pytest.fixture
def shown() -> list[tuple[bytes, tuple[Line, ...]]]:
    """What the drivers were told."""
    return []


@pytest.fixture
def logs(store: Store, shown: list[tuple[bytes, tuple[Line, ...]]]) -> Logs:
    return Logs(Io(store), "agent", lambda job, lines: shown.append((job, lines)))


def pieces(store: Store, job: bytes = JOB.id) -> list[bytes]:
    found = []
    for entry in store.list(f"t7/jobs/{ids.to_text(job)}/logs/"):
        body = store.get(entry.key)
        assert body is not None
        found.append(bytes(envelope.open_sealed(envelope.Kind.LOG, body, entry.key)))
    return found


def test_a_line_is_shown_at_once(logs: Logs, shown: list[object], store: Store) -> None:
    logs.lines(JOB.id, (line("one"),))
    assert shown == [(JOB.id, (line("one"),))]
    assert pieces(store) == []


def test_what_came_since_the_last_time_is_one_piece(logs: Logs, store: Store) -> None:
    logs.lines(JOB.id, (line("one"),))
    logs.lines(JOB.id, (line("two", "g"),))
    logs.flush()
    logs.lines(JOB.id, (line("three"),))
    logs.flush()
    assert pieces(store) == [b"(f pid=42) one\n(g pid=42) two\n", b"(f pid=42) three\n"]


def test_nothing_is_written_when_nothing_came(logs: Logs, store: Store) -> None:
    logs.flush()
    assert pieces(store) == []


def test_each_job_has_pieces_of_its_own(logs: Logs, store: Store) -> None:
    logs.lines(JOB.id, (line("one"),))
    logs.lines(OTHER_JOB, (line("two"),))
    logs.flush()
    assert pieces(store) == [b"(f pid=42) one\n"]
    assert pieces(store, OTHER_JOB) == [b"(f pid=42) two\n"]


def test_a_folder_is_named_as_a_user_would_type_it(logs: Logs, store: Store) -> None:
    folder = logs.folder(JOB.id)
    logs.lines(JOB.id, (line("one"),))
    logs.flush()
    (entry,) = store.list("t7/jobs/")
    assert folder == f"file:///shared/cluster/{entry.key.rpartition('/')[0]}"


def test_a_limit_keeps_the_newest_pieces(store: MemoryStore) -> None:
    logs = Logs(Io(store), "agent", lambda *_: None, limit_bytes=1000)
    for number in range(20):
        logs.lines(JOB.id, (line(f"{number} " + "x" * 300),))
        logs.lines(OTHER_JOB, (line("other"),))
        logs.flush()
    numbers = [piece.split()[2] for piece in pieces(store)]
    assert sorted(numbers) == [b"18", b"19"]
    assert sum(len(piece) for piece in pieces(store)) < 1000
    assert len(pieces(store, OTHER_JOB)) > 2


def test_a_single_piece_is_kept_whatever_its_size(store: MemoryStore) -> None:
    logs = Logs(Io(store), "agent", lambda *_: None, limit_bytes=10)
    logs.lines(JOB.id, (line("x" * 300),))
    logs.flush()
    assert len(pieces(store)) == 1


def test_a_lot_does_not_wait_for_the_next_time(logs: Logs, store: Store) -> None:
    for _ in range(100):
        logs.lines(JOB.id, (line("x" * 100_000),))
    assert len(pieces(store)) >= 2
