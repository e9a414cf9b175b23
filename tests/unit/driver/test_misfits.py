from __future__ import annotations

import logging

import msgspec
import pytest

from cloudray.driver.misfits import Misfits, explain
from cloudray.protocol.demand import to_units
from cloudray.protocol.messages import Unschedulable

ASKED = {"CPU": to_units(1), "GPU": to_units(2), "memory": to_units(64e9), "tea": to_units(0.5)}
OFFERED = {"CPU": to_units(2), "memory": to_units(8e9)}
TRAIN = Unschedulable("train", ASKED, OFFERED)


@pytest.mark.parametrize("embedded", [True, False])
def test_what_was_asked_and_what_there_is_are_named(embedded: bool) -> None:
    text = explain(TRAIN, embedded=embedded)
    for part in ("task train", "1 CPU, 2 GPUs, 64.0 GB memory, 0.5 tea", "2 CPUs, 8.0 GB memory"):
        assert part in text


def test_in_a_cluster_that_others_join_it_waits_for_one_that_can() -> None:
    assert "waits until one joins that does" in explain(TRAIN, embedded=False)


def test_in_ones_own_cluster_the_arguments_that_help_are_named() -> None:
    text = explain(TRAIN, embedded=True)
    assert "init(num_gpus=2, memory=64000000000, resources={'tea': 0.5})" in text


def test_what_there_is_enough_of_is_not_to_be_offered() -> None:
    message = Unschedulable("wide", {"CPU": to_units(8), "tea": 1}, {"CPU": to_units(2), "tea": 1})
    assert "init(num_cpus=8)" in explain(message, embedded=True)


def test_another_python_is_named() -> None:
    message = Unschedulable("train", {"CPU": to_units(1)}, OFFERED, "py312")
    assert "submitted by Python 3.12, but no agent runs that version" in explain(
        message, embedded=False
    )


def test_each_task_and_demand_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    misfits = Misfits(embedded=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            misfits.take(TRAIN)
            # Another agent has something else to offer.
            misfits.take(msgspec.structs.replace(TRAIN, largest={"CPU": to_units(1)}))
        misfits.take(msgspec.structs.replace(TRAIN, name="score"))
        misfits.take(msgspec.structs.replace(TRAIN, demand={"CPU": to_units(9)}))
    assert [record.getMessage().split()[2] for record in caplog.records] == [
        "train",
        "score",
        "train",
    ]
