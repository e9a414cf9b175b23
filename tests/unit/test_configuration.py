from __future__ import annotations

from cloudray import configuration
from cloudray.configuration import Configuration
from cloudray.timing import EMBEDDED, REMOTE


def test_before_anything_is_registered_the_defaults_hold() -> None:
    assert configuration.current() == Configuration()
    assert configuration.sources() is None


def test_what_is_registered_holds_until_it_is_taken_back() -> None:
    mine = Configuration(progress=False)
    try:
        configuration.use(mine, {"progress": "argument progress"})
        assert configuration.current() is mine
        assert configuration.sources() == {"progress": "argument progress"}
    finally:
        configuration.use(None)
    assert configuration.current().progress is True
    assert configuration.sources() is None


def test_times_that_nobody_sets_are_the_usual_ones() -> None:
    assert Configuration().timing(REMOTE) is REMOTE


def test_a_time_that_is_set_replaces_the_usual_one() -> None:
    times = Configuration(lease_s=9.0).timing(EMBEDDED)
    assert times.lease_s == 9.0
    assert times.heartbeat_s == EMBEDDED.heartbeat_s
