from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloudray import ids
from cloudray.protocol import claims, standing
from cloudray.protocol.demand import Demand, class_of
from cloudray.protocol.records import Batch, Claim, Cluster, Heartbeat, Shape, Task, seal
from cloudray.protocol.standing import Standing, survey
from cloudray.store import Delete, List, MemoryStore, Op, Put, Reliable, drive, layout
from cloudray.store.base import RefusedError
from cloudray.store.layout import QueueName, claim_of
from cloudray.timing import REMOTE

CPU: Demand = {"CPU": 10_000}
SETTINGS = Cluster(REMOTE.heartbeat_s, REMOTE.lease_s, REMOTE.commit_s, REMOTE.scan_s)
PREFIX = ids.batch_prefix(7, bytes(10), bytes(10))


class Dated(MemoryStore):
    """A store with a clock of its own; None for one that tells no times."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s: int | None = 1_000_000
        self.clock = lambda: self.now_s or 0
        self.read_only = False

    def after(self, seconds: int) -> None:
        """Let time pass."""
        assert self.now_s is not None
        self.now_s += seconds

    def perform(self, op: Op) -> Any:
        if self.read_only and isinstance(op, (Put, Delete)):
            raise RefusedError("read only")
        answer = super().perform(op)
        if isinstance(op, List) and self.now_s is None:
            return [msgspec.structs.replace(entry, modified_s=None) for entry in answer]
        return answer


@pytest.fixture
def dated() -> Dated:
    return Dated()


def beat(store: MemoryStore, agent: str, **more: Any) -> None:
    heartbeat = Heartbeat(agent, 1, f"host-of-{agent}", 1, "", CPU, CPU, **more)
    store.put(layout.agent(agent), seal(heartbeat))


def submit(store: MemoryStore, number: int, size: int = 1, demand: Demand = CPU) -> QueueName:
    batch = Batch(
        ids.batch_id(PREFIX, number), (Shape("f" * 64, "train", 1, demand),), (Task(0),) * size
    )
    name = QueueName(class_of(demand, "py311"), 5, batch.id, size, 0)
    drive(Reliable(store), claims.submit(name, batch))
    return name


def claim(store: MemoryStore, name: QueueName, agent: str, number: int = 1) -> None:
    store.put(claim_of(name.stem, number), seal(Claim(agent)))


def look(store: MemoryStore) -> Standing:
    return drive(Reliable(store), survey(SETTINGS, 0.0))


def test_an_empty_cluster_has_nothing_to_show(dated: Dated) -> None:
    assert look(dated) == Standing((), ())


def test_an_agent_is_shown_as_it_says_it_is(dated: Dated) -> None:
    beat(dated, "one", python="py311", labels={"zone": "a"}, version="0.1.0", idle=False)
    (agent,) = look(dated).agents
    assert (agent.agent, agent.host, agent.python) == ("one", "host-of-one", "3.11")
    assert (agent.resources, agent.available) == ({"CPU": 1.0}, {"CPU": 1.0})
    assert (agent.labels, agent.version, agent.idle) == ({"zone": "a"}, "0.1.0", False)
    assert (agent.silent_s, agent.alive) == (0, True)


def test_silence_is_measured_by_the_stores_clock(dated: Dated) -> None:
    beat(dated, "one")
    dated.after(21)
    (agent,) = look(dated).agents
    assert agent.silent_s == 21


def test_who_is_silent_for_longer_than_a_lease_is_dead_unless_it_had_nothing_to_do(
    dated: Dated,
) -> None:
    beat(dated, "busy", idle=False)
    beat(dated, "idle", idle=True)
    dated.after(60)
    assert {agent.agent: agent.alive for agent in look(dated).agents} == {
        "busy": False,
        "idle": True,
    }
    dated.after(3600)
    assert look(dated).alive == ()


def test_looking_leaves_nothing_behind(dated: Dated) -> None:
    beat(dated, "one")
    look(dated)
    assert [entry.key for entry in dated.list("")] == [layout.agent("one")]


def test_who_may_only_read_sees_ages_by_his_own_clock(dated: Dated) -> None:
    beat(dated, "one")
    dated.read_only = True
    found = drive(Reliable(dated), survey(SETTINGS, 1_000_007.0))
    assert found.agents[0].silent_s == 7


def test_a_store_that_tells_no_times_shows_all_agents_as_alive(dated: Dated) -> None:
    dated.now_s = None
    beat(dated, "one")
    (agent,) = look(dated).agents
    assert (agent.silent_s, agent.alive) == (None, True)


def test_a_heartbeat_that_cannot_be_read_is_left_out(dated: Dated) -> None:
    dated.put(layout.agent("strange"), b"something else")
    beat(dated, "one")
    assert [agent.agent for agent in look(dated).agents] == ["one"]


def test_batches_and_tasks_are_counted_by_class(dated: Dated) -> None:
    beat(dated, "one")
    submit(dated, 0, 3)
    claim(dated, submit(dated, 1, 4), "one")
    submit(dated, 2, 5, {"CPU": 20_000})
    small, large = look(dated).classes
    assert (small.name, large.name) == ("py311-cpu1-m0", "py311-cpu2-m0")
    assert (small.queued_batches, small.queued_tasks) == (1, 3)
    assert (small.claimed_batches, small.claimed_tasks) == (1, 4)
    assert (large.queued_tasks, large.claimed_tasks) == (5, 0)


def test_a_batch_that_was_given_back_or_whose_agent_is_dead_is_queued(dated: Dated) -> None:
    beat(dated, "one")
    given_back = submit(dated, 0)
    claim(dated, given_back, "one")
    claim(dated, given_back, "", 2)
    claim(dated, submit(dated, 1), "gone")
    (each,) = look(dated).classes
    assert (each.queued_batches, each.claimed_batches) == (2, 0)


def test_a_long_queue_is_read_page_after_page(
    dated: Dated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "PAGE", 3)
    for number in range(8):
        claim(dated, submit(dated, number), "gone")
    (each,) = look(dated).classes
    assert each.queued_batches == 8


def test_of_very_many_claims_it_is_assumed_that_they_are_held(
    dated: Dated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "MAX_CLAIMS_READ", 2)
    for number in range(5):
        claim(dated, submit(dated, number), "gone")
    (each,) = look(dated).classes
    assert (each.queued_batches, each.claimed_batches) == (2, 3)


def test_what_is_queued_is_explained(dated: Dated) -> None:
    submit(dated, 0)
    (each,) = look(dated).classes
    assert (each.example, each.reason) == ("train", "no agent serves this cluster")


def test_dead_agents_explain_nothing(dated: Dated) -> None:
    beat(dated, "one", idle=False)
    dated.after(3600)
    submit(dated, 0)
    (each,) = look(dated).classes
    assert each.reason == "no agent serves this cluster"


def test_what_runs_needs_no_explanation(dated: Dated) -> None:
    beat(dated, "one")
    claim(dated, submit(dated, 0), "one")
    (each,) = look(dated).classes
    assert each.reason == ""


def test_what_waits_for_its_arguments_is_told(dated: Dated) -> None:
    beat(dated, "one")
    argument = ids.object_id(ids.batch_id(PREFIX, 7), 0)
    batch = Batch(
        ids.batch_id(PREFIX, 8),
        (Shape("f" * 64, "merge", 1, CPU),),
        (Task(0, depends_on=(argument,)),),
    )
    name = QueueName(class_of(CPU, "py311"), 5, batch.id, 1, 0)
    drive(Reliable(dated), claims.submit(name, batch))
    for agent in ("", "one"):
        if agent:
            claim(dated, name, agent)
        (each,) = look(dated).classes
        assert (each.example, each.reason) == ("merge", "waits for its arguments")


def test_a_batch_that_cannot_be_read_is_told(dated: Dated) -> None:
    name = submit(dated, 0)
    dated.put(claim_of(name.stem, 0), b"something else")
    (each,) = look(dated).classes
    assert each.reason.startswith("cannot be read: ")
