from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.protocol.demand import Demand
from cloudray.protocol.journal import Journal, append
from cloudray.protocol.reasons import ABOUT_TO_START, lacking, why_queued
from cloudray.protocol.records import Batch, Heartbeat, Shape, Task, Verb, Word
from cloudray.store import Reliable, drive

CPU: Demand = {"CPU": 10_000}
PREFIX = ids.batch_prefix(7, bytes(10), bytes(10))


def beat(
    total: Demand, free: Demand | None = None, python: str = "py311", *, draining: bool = False
) -> Heartbeat:
    return Heartbeat(
        "agent", 1, "host", 1, "", total, total if free is None else free, draining, python=python
    )


@pytest.mark.parametrize(
    ("demand", "beats", "reason"),
    [
        (CPU, [], "no agent serves this cluster"),
        (
            CPU,
            [beat(CPU, python="py312"), beat(CPU, python="py313")],
            "no agent runs Python 3.11 (those that there are run 3.12, 3.13)",
        ),
        (
            {"CPU": 10_000, "GPU": 10_000},
            [beat(CPU), beat({"CPU": 40_000, "tag": 10_000})],
            "it asks for 1 CPU, 1 GPU, and no agent has that much (at most 4 CPUs, 1 tag)",
        ),
        (
            {"GPU": 10_000},
            [beat(CPU), beat({"CPU": 10_000, "GPU": 10_000}, python="py312")],
            "it asks for 1 GPU, and no agent has that much (at most 1 CPU)",
        ),
        (
            CPU,
            [beat(CPU, draining=True)],
            "it asks for 1 CPU, and every agent with so much is leaving",
        ),
        (CPU, [beat(CPU, {"CPU": 0})], "no free slot (1 of 1 CPU busy)"),
        (
            CPU,
            [beat(CPU, {"CPU": 0}), beat({"CPU": 20_000}, {"CPU": 5_000})],
            "no free slot (2.5 of 3 CPUs busy)",
        ),
        (CPU, [beat(CPU, {"CPU": 0}), beat(CPU)], ABOUT_TO_START),
        ({}, [beat(CPU, {"CPU": 0})], ABOUT_TO_START),
        (CPU, [beat(CPU, python="")], ABOUT_TO_START),
    ],
)
def test_the_reason_names_what_is_asked_and_what_there_is(
    demand: Demand, beats: list[Heartbeat], reason: str
) -> None:
    assert why_queued(demand, beats, "py311") == reason


def test_without_a_version_any_agent_will_do() -> None:
    assert why_queued(CPU, [beat(CPU, python="py313")]) == ABOUT_TO_START


def batch_of(*tasks: Task) -> Batch:
    return Batch(ids.batch_id(PREFIX, 9), (Shape("f" * 64, "f", 1, CPU),), tasks)


def test_a_batch_without_arguments_lacks_nothing(store: Reliable) -> None:
    assert drive(store, lacking(batch_of(Task(0)))) is None


def test_a_stored_value_is_no_reason_to_wait(store: Reliable) -> None:
    stored = ids.object_id(ids.batch_id(PREFIX, 0), ids.PUT_INDEX)
    assert drive(store, lacking(batch_of(Task(0, depends_on=(stored,))))) is None


def test_a_batch_lacks_a_result_until_it_is_there(store: Reliable) -> None:
    other = ids.batch_id(PREFIX, 1)
    argument = ids.object_id(other, 0)
    waiting = batch_of(Task(0, depends_on=(argument,)))
    assert drive(store, lacking(waiting)) == argument
    drive(store, append(Journal(other, 1), [Word(0, Verb.DONE, (b"value",))], claim=1))
    assert drive(store, lacking(waiting)) is None


def test_one_task_that_is_ready_is_enough(store: Reliable) -> None:
    argument = ids.object_id(ids.batch_id(PREFIX, 1), 0)
    batch = batch_of(Task(0, depends_on=(argument,)), Task(0))
    assert drive(store, lacking(batch)) is None
