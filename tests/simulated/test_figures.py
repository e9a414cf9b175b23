"""What object storage costs: counted, and measured in virtual time."""

from __future__ import annotations

import pytest

from cloudray.testing import scale


@pytest.mark.parametrize("latency_s", [0.05, 0.2])
def test_a_task_takes_four_requests_and_two_waits_by_the_buckets_bell(latency_s: float) -> None:
    path = scale.critical_path(latency_s=latency_s)
    assert path.requests <= 4 + 1e-6


@pytest.mark.parametrize("latency_s", [0.05, 0.2])
def test_a_task_takes_less_than_five_requests_by_a_queue(latency_s: float) -> None:
    path = scale.critical_path(latency_s=latency_s, sqs=True)
    # The message, the claim, the journal entry; and the look that finds it.
    assert path.requests <= 3 + 1e-6
    assert path.total_s <= 5 * latency_s


@pytest.mark.parametrize("agents", [1, 4])
def test_an_idle_agent_costs_at_most_a_fifth_of_a_cent_per_hour(agents: int) -> None:
    assert scale.idle_usd_per_hour(agents=agents, hours=0.25) <= 0.002
