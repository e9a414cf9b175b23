"""The protocol for tasks, explored exhaustively in small worlds.

Two agents, up to three tasks, a cancel, lost and late answers, a crash at every step, leases
that expire at any moment: no task is lost, and no task gets a second final word. Rules that look
like details are shown to matter by leaving them out.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from unittest import mock

import pytest

from cloudray.protocol import claims, sharing
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch
from cloudray.store import conditional
from cloudray.store.base import Op
from cloudray.store.layout import QueueName
from tests.model.explore import explore
from tests.model.worlds import WORLDS

#: So that no test passes because nothing was explored.
FEWEST_STATES = 5_000
#: What a mistake does, rather than how it looks in the journal on the way there.
ON_THE_WAY = frozenset({"dangling", "belief", "slander"})


@pytest.mark.parametrize("name", WORLDS)
def test_no_task_is_lost_and_no_final_word_is_followed_by_another(name: str) -> None:
    report = explore(WORLDS[name])
    assert not report.kind, str(report)
    assert report.states > FEWEST_STATES
    assert report.ends
    assert report.spent


def test_a_create_that_overwrites_makes_a_second_final_word() -> None:
    report = explore(WORLDS["giving away"], overwrites=True, ignored=ON_THE_WAY)
    assert report.kind == "second word", str(report)


def test_a_create_that_overwrites_loses_tasks() -> None:
    report = explore(WORLDS["takeover"], overwrites=True, ignored=ON_THE_WAY)
    assert report.kind == "lost", str(report)


def test_saying_moved_before_there_is_a_batch_points_nowhere() -> None:
    with mock.patch.object(sharing, "give_away", _moved_first):
        report = explore(WORLDS["giving away"])
    assert report.kind == "dangling", str(report)


def test_saying_moved_before_there_is_a_batch_loses_tasks() -> None:
    with mock.patch.object(sharing, "give_away", _moved_first):
        report = explore(WORLDS["giving away"], ignored=ON_THE_WAY)
    assert report.kind == "lost", str(report)


@pytest.mark.parametrize("name", ["takeover", "giving away, answers lost", "once", "early"])
def test_a_writer_that_does_not_know_its_own_write_loses_tasks(name: str) -> None:
    with mock.patch.object(conditional, "is_ours", return_value=False):
        report = explore(WORLDS[name], ignored=ON_THE_WAY)
    assert report.kind == "lost", str(report)


def test_removing_claims_of_a_batch_that_is_not_complete_runs_a_task_twice() -> None:
    with mock.patch.object(claims, "sweep", _sweep_all):
        report = explore(WORLDS["sweeping"], ignored=ON_THE_WAY)
    assert report.kind == "twice", str(report)


def _moved_first(
    journal: Journal, part: Batch, name: QueueName, *, claim: int
) -> Generator[Op, Any, list[int]]:
    fresh = yield from journals.append(journal, sharing.moves_to(part), claim=claim)
    yield from claims.submit(name, part)
    return fresh


def _sweep_all(name: QueueName, last_claim: int) -> Generator[Op, Any, bool]:
    yield claims.forget(name, last_claim)
    return True
