from __future__ import annotations

from random import Random

import pytest

from cloudray.bells.pace import FIRST_S, HOT_S, LONGEST_S, Pace


class Middle(Random):
    """Draws the middle of every range: jitter that changes nothing."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
def pace() -> Pace:
    return Pace(Middle())


def test_an_agent_that_just_had_work_looks_often(pace: Pace) -> None:
    pace.worked(100.0)
    assert [pace.delay_s(100.0 + HOT_S * part) for part in (0.0, 0.5, 1.0)] == [FIRST_S] * 3


def test_of_several_agents_each_looks_more_rarely(pace: Pace) -> None:
    pace.agents = 20
    pace.worked(0.0)
    assert pace.delay_s(0.0) == 20 * FIRST_S


def test_without_work_the_delay_doubles_up_to_a_limit(pace: Pace) -> None:
    pace.worked(0.0)
    delays_s = [pace.delay_s(HOT_S + 1) for _ in range(10)]
    assert delays_s[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert delays_s[-2:] == [LONGEST_S] * 2


def test_an_agent_that_never_had_work_looks_rarely(pace: Pace) -> None:
    assert pace.delay_s(0.0) == LONGEST_S


def test_however_many_agents_there_are_none_waits_longer_than_the_limit(pace: Pace) -> None:
    pace.agents = 1000
    pace.worked(0.0)
    assert pace.delay_s(0.0) == LONGEST_S


def test_work_makes_an_idle_agent_look_often_again(pace: Pace) -> None:
    pace.delay_s(1000.0)
    pace.worked(1000.0)
    assert pace.delay_s(1000.0) == FIRST_S


def test_agents_do_not_look_in_step() -> None:
    pace = Pace(Random(1))
    delays_s = [pace.delay_s(0.0) for _ in range(100)]
    assert len(set(delays_s)) == 100
    assert all(0.5 * LONGEST_S <= delay_s <= 1.5 * LONGEST_S for delay_s in delays_s)
    assert abs(sum(delays_s) / 100 - LONGEST_S) < 0.1 * LONGEST_S
