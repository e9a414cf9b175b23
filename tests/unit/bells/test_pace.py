from __future__ import annotations

from random import Random

import pytest

from cloudray.bells.pace import FIRST_S, LONGEST_S, PART, REST_S, Pace


class Middle(Random):
    """Draws the middle of every range: jitter that changes nothing."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
def pace() -> Pace:
    return Pace(Middle())


def test_an_agent_that_just_had_work_looks_often(pace: Pace) -> None:
    pace.worked(100.0)
    assert [pace.delay_s(100.0 + since_s) for since_s in (0.0, 1.0, FIRST_S / PART)] == [
        FIRST_S
    ] * 3


def test_of_several_agents_each_looks_more_rarely(pace: Pace) -> None:
    pace.agents = 20
    pace.worked(0.0)
    assert pace.delay_s(0.0) == 20 * FIRST_S


def test_the_longer_there_was_no_work_the_rarer_are_the_looks(pace: Pace) -> None:
    pace.worked(0.0)
    assert [pace.delay_s(since_s) for since_s in (10.0, 20.0, 40.0)] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(("agents", "rest_s"), [(1, 2.55), (20, 3.5), (1000, LONGEST_S)])
def test_an_idle_agent_waits_longer_where_there_are_others(
    pace: Pace, agents: int, rest_s: float
) -> None:
    pace.agents = agents
    pace.worked(0.0)
    assert pace.delay_s(3600.0) == pytest.approx(rest_s)


def test_an_agent_that_never_had_work_looks_rarely(pace: Pace) -> None:
    assert pace.delay_s(0.0) == REST_S + FIRST_S


def test_however_many_agents_there_are_none_waits_longer_than_the_limit(pace: Pace) -> None:
    pace.agents = 1000
    pace.worked(0.0)
    assert pace.delay_s(0.0) == LONGEST_S


def test_looks_have_become_rare_once_they_are_put_off(pace: Pace) -> None:
    pace.worked(0.0)
    assert [pace.is_slow(since_s) for since_s in (0.0, 1.9, 2.1)] == [False, False, True]


def test_work_makes_an_idle_agent_look_often_again(pace: Pace) -> None:
    pace.delay_s(1000.0)
    pace.worked(1000.0)
    assert pace.delay_s(1000.0) == FIRST_S


def test_agents_do_not_look_in_step() -> None:
    pace = Pace(Random(1))
    delays_s = [pace.delay_s(0.0) for _ in range(100)]
    assert len(set(delays_s)) == 100
    rest_s = REST_S + FIRST_S
    assert all(0.5 * rest_s <= delay_s <= 1.5 * rest_s for delay_s in delays_s)
    assert abs(sum(delays_s) / 100 - rest_s) < 0.1 * rest_s
