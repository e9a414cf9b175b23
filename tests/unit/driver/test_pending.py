from __future__ import annotations

import threading
from typing import Any

import pytest

from cloudray import ids
from cloudray.driver.following import Following
from cloudray.driver.pending import EXPLAINED, Pending
from cloudray.protocol import claims
from cloudray.protocol.batching import DurationBook
from cloudray.protocol.records import Batch, Claim, Entry, Heartbeat, Shape, Task, Word, seal
from cloudray.refs import ObjectRef
from cloudray.store import Counting, Ledger, MemoryStore, Op, drive, layout
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import JOB
from tests.unit.protocol.builders import BATCH_ID, OTHER_ID, PREFIX, done, moved, name_of, started

FIRST: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH_ID, 0))
SECOND: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH_ID, 1))
CPU = {"CPU": 10_000}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Slow(MemoryStore):
    """A store that can be made not to answer, or to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()
        self.broken = False

    def perform(self, op: Op) -> Any:
        self.answers.wait(60)
        if self.broken:
            raise OSError("no store today")
        return super().perform(op)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def following(store: Slow) -> Following:
    return Following(store, JOB.id, DurationBook())


@pytest.fixture
def pending(store: Slow, ledger: Ledger, following: Following, clock: Clock) -> Pending:
    return Pending(Counting(store, ledger), following, clock)


def task(name: str, demand: dict[str, int], *depends_on: ObjectRef[Any]) -> tuple[Shape, Task]:
    shape = Shape("f" * 64, name, 1, demand)
    return shape, Task(0, depends_on=tuple(ref.id for ref in depends_on))


def submit(
    store: Slow, following: Following, *tasks: tuple[Shape, Task], number: int = 0
) -> object:
    """Submit tasks as one batch; returns what its refs keep alive."""
    batch = Batch(
        ids.batch_id(PREFIX, number),
        tuple(shape for shape, _ in tasks),
        tuple(Task(at, depends_on=one.depends_on) for at, (_, one) in enumerate(tasks)),
    )
    anchor = following.anchor(batch.id)
    following.submitted(name_of(batch), batch)
    drive(store, claims.submit(name_of(batch), batch))
    return anchor


def beat(store: Slow, agent: str, total: dict[str, int], free: dict[str, int]) -> None:
    beat = Heartbeat(agent, 1, f"host-of-{agent}", 1, "", total, free)
    store.put(layout.agent(agent), seal(beat))


def say(following: Following, *words: Word, batch: bytes = BATCH_ID) -> None:
    journal = following.results.journal(batch)
    journal.apply(Entry(1, words))
    following._grown(journal)


def test_a_running_task_is_named_with_where_and_how_long(
    store: Slow, following: Following, pending: Pending, clock: Clock
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    name = following.names[BATCH_ID]
    store.put(claim_of(name.stem, 1), seal(Claim("agent1")))
    beat(store, "agent1", CPU, {"CPU": 0})
    beat(store, "agent2", CPU, CPU)
    say(following, started(0))
    following.started_s[BATCH_ID][0] = clock.now_s - 12.4
    assert pending.explain([FIRST], 1.0) == [
        f"train ({ids.short(FIRST.id)}): running for 12 s on host-of-agent1"
    ]


def test_a_task_may_wait_for_a_slot(store: Slow, following: Following, pending: Pending) -> None:
    _anchor = submit(store, following, task("train", CPU))
    beat(store, "agent1", {"CPU": 20_000, "memory": 1}, {"CPU": 0, "memory": 1})
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith("): queued: no free slot (2 of 2 CPUs busy)")


def test_slots_may_be_oversubscribed(store: Slow, following: Following, pending: Pending) -> None:
    _anchor = submit(store, following, task("train", CPU))
    beat(store, "agent1", {"CPU": 20_000}, {"CPU": -10_000})
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith("queued: no free slot (2 of 2 CPUs busy)")


def test_only_what_a_task_asks_for_and_is_taken_is_told(
    store: Slow, following: Following, pending: Pending
) -> None:
    _anchor = submit(store, following, task("train", {"CPU": 10_000, "GPU": 10_000}))
    beat(store, "a", {"CPU": 40_000, "GPU": 10_000}, {"CPU": 30_000, "GPU": 0})
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith("queued: no free slot (1 of 1 GPU busy)")


def test_a_task_may_ask_for_what_nobody_has(
    store: Slow, following: Following, pending: Pending
) -> None:
    _anchor = submit(store, following, task("train", {"CPU": 10_000, "GPU": 10_000}))
    beat(store, "a", {"CPU": 40_000}, {"CPU": 40_000})
    beat(store, "b", {"CPU": 20_000, "tea": 10_000}, {"CPU": 20_000})
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith(
        "queued: it asks for 1 CPU, 1 GPU, and no agent has that much (at most 4 CPUs, 1 tea)"
    )


def test_a_task_may_wait_for_an_argument(
    store: Slow, following: Following, pending: Pending
) -> None:
    _anchor = submit(store, following, task("load", CPU), task("train", CPU, FIRST))
    beat(store, "a", CPU, CPU)
    say(following, started(0))
    _, line = pending.explain([FIRST, SECOND], 1.0)
    short = ids.short(FIRST.id)
    assert line.endswith(f"): waits for its argument load ({short}), which is running")


def test_an_argument_that_is_there_is_not_waited_for(
    store: Slow, following: Following, pending: Pending
) -> None:
    put: ObjectRef[Any] = ObjectRef(ids.object_id(OTHER_ID, ids.PUT_INDEX))
    _anchor = submit(store, following, task("load", CPU), task("train", CPU, put, FIRST))
    beat(store, "a", CPU, CPU)
    say(following, done(0))
    (line,) = pending.explain([SECOND], 1.0)
    assert line.endswith("queued: about to start")


def test_a_cluster_may_have_no_agent(store: Slow, following: Following, pending: Pending) -> None:
    _anchor = submit(store, following, task("train", CPU))
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith("queued: no agent serves this cluster")


def test_a_task_that_was_given_away_is_still_told_of(
    store: Slow, following: Following, pending: Pending
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    say(following, moved(0, OTHER_ID, 3))
    say(following, started(3), batch=OTHER_ID)
    (line,) = pending.explain([FIRST], 1.0)
    assert line.startswith(f"{ids.short(FIRST.id)}: running")


def test_of_a_task_that_others_submitted_little_is_known(pending: Pending) -> None:
    assert pending.explain([FIRST], 1.0) == [f"{ids.short(FIRST.id)}: pending"]


def test_what_ended_meanwhile_is_told(store: Slow, following: Following, pending: Pending) -> None:
    _anchor = submit(store, following, task("train", CPU))
    say(following, done(0))
    (line,) = pending.explain([FIRST], 1.0)
    assert line.endswith("done, 5 B")


# -- what it costs -----------------------------------------------------------------------------


def test_of_many_values_a_few_are_explained(
    store: Slow, following: Following, pending: Pending, ledger: Ledger
) -> None:
    _anchor = submit(store, following, *(task("train", CPU) for _ in range(50)))
    beat(store, "a", CPU, CPU)
    refs = [ObjectRef[Any](ids.object_id(BATCH_ID, index)) for index in range(50)]
    lines = pending.explain(refs, 1.0)
    assert len(lines) == 50
    assert sum(line.startswith("train") for line in lines) == EXPLAINED
    assert lines[-1] == f"{ids.short(refs[-1].id)}: pending"
    # The batch, the list of agents, and the agent.
    assert ledger == Ledger(get=2, list=1)


def test_who_only_asks_whether_it_is_there_reads_nothing(
    store: Slow, following: Following, pending: Pending, ledger: Ledger
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    assert pending.explain([FIRST], 0.0) == [f"{ids.short(FIRST.id)}: pending"]
    assert ledger == Ledger()


def test_who_asks_again_and_again_reads_once_a_second(
    store: Slow, following: Following, pending: Pending, ledger: Ledger, clock: Clock
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    pending.explain([FIRST], 0.01)
    before = ledger.as_dict()
    for _ in range(50):
        clock.now_s += 0.01
        pending.explain([FIRST], 0.01)
    assert ledger.subtract(before) == Ledger()
    clock.now_s += 1.0
    assert pending.explain([FIRST], 0.01)[0].startswith("train")


def test_a_store_that_does_not_answer_is_not_waited_for(
    store: Slow, following: Following, pending: Pending, monkeypatch: pytest.MonkeyPatch
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    monkeypatch.setattr(pending._store, "inline", False)
    monkeypatch.setattr("cloudray.driver.pending._PATIENCE_S", 0.01)
    store.answers.clear()
    try:
        assert pending.explain([FIRST], 1.0) == [f"{ids.short(FIRST.id)}: pending"]
    finally:
        store.answers.set()


def test_a_store_that_fails_takes_no_error_away(
    store: Slow, following: Following, pending: Pending, monkeypatch: pytest.MonkeyPatch
) -> None:
    _anchor = submit(store, following, task("train", CPU))
    store.broken = True
    for inline in (True, False):
        monkeypatch.setattr(pending._store, "inline", inline)
        monkeypatch.setattr(pending, "_read_s", float("-inf"))
        assert pending.explain([FIRST], 1.0) == [f"{ids.short(FIRST.id)}: pending"]
