"""Clusters in a bucket behind a bad network, whose machines and drivers are killed and paused."""

from __future__ import annotations

import pytest

from tests.chaos.proxy import Fate
from tests.chaos.storm import play
from tests.servers import Server

#: Each a storm of its own: with agents in sight of drivers (even) and without (odd), and one in
#: which every machine dies (4). `make chaos` plays many more.
LOCALSTACK_SEEDS, RADOSGW_SEEDS = (1, 4), (2, 3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", LOCALSTACK_SEEDS)
def test_nothing_is_lost_and_nothing_runs_twice_on_localstack(
    localstack: Server, seed: int
) -> None:
    weather_the_storm(localstack, seed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", RADOSGW_SEEDS)
def test_nothing_is_lost_and_nothing_runs_twice_on_ceph(radosgw: Server, seed: int) -> None:
    weather_the_storm(radosgw, seed)


def weather_the_storm(server: Server, seed: int) -> None:
    report = play(server, seed)
    assert not report.faults, f"{report.line()}\n{report.said}"
    assert report.tasks >= 300
    assert sum(count for what, count in report.blows.items() if "kill" in what) >= 3
    assert report.blows["pause"] == report.blows["cut"] == 1
    assert all(report.fates[fate] for fate in Fate)
