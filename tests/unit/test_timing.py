from __future__ import annotations

import pytest

from cloudray.timing import EMBEDDED, REMOTE, SHARED_DIRECTORY, Timing, timing_for

ALL = [EMBEDDED, SHARED_DIRECTORY, REMOTE]


@pytest.mark.parametrize("timing", ALL)
def test_a_lease_outlasts_two_lost_heartbeats(timing: Timing) -> None:
    assert timing.lease_s >= 3 * timing.heartbeat_s


@pytest.mark.parametrize("timing", ALL)
def test_results_are_published_several_times_in_a_lease(timing: Timing) -> None:
    assert timing.commit_s < timing.lease_s / 4


@pytest.mark.parametrize("url", ["file:///shared/cluster", "memory://"])
def test_a_directory_is_looked_at_often(url: str) -> None:
    assert timing_for(url) == SHARED_DIRECTORY


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket", "az://container"])
def test_requests_to_object_storage_are_rare(url: str) -> None:
    assert timing_for(url) == REMOTE
