"""Tasks travel in batches, and nobody notices but the bill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray.testing import Ledger, request_counts
from tests.integration.clusters import Embedded
from tests.integration.gates import meet, wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def short_or_long(number: int, gate: Path | None) -> tuple[int, int]:
    """A call that takes no time, or as long as somebody likes."""
    if gate is not None:
        gate.with_suffix(".started").touch()
        wait_for(gate)
    return number, os.getpid()


@ray.remote
def nap(duration_s: float) -> tuple[float, float, int]:
    """Sleep; returns when it began and ended, and where."""
    began_s = time.monotonic()
    time.sleep(duration_s)
    return began_s, time.monotonic(), os.getpid()


@ray.remote
def add(*numbers: int) -> int:
    return sum(numbers)


def measure() -> None:
    """Let the cluster learn that these functions are short."""
    ray.get([short_or_long.remote(number, None) for number in range(300)])


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_no_op_task_costs_two_hundredths_of_a_request() -> None:
    """The figure of the design, with whatever the agent asks for itself meanwhile."""
    before = request_counts()
    ray.get([same.remote(number) for number in range(10_000)])
    asked = request_counts().subtract(before)
    assert asked.priced_requests <= 0.02 * 10_000, asked


@pytest.mark.usefixtures("cluster")
def test_few_tasks_cost_few_requests() -> None:
    before = request_counts()
    for number in range(20):
        ray.get(same.remote(number))
    asked = request_counts().subtract(before)
    # Entry, claim, two reads beside the claim, journal, its reader, and the agent's own. In a
    # bucket the number depends on how long the answers take; the simulator counts it there.
    assert asked.priced_requests <= 20 * 8, asked


@pytest.mark.usefixtures("cluster")
def test_requests_are_counted_in_drivers_only() -> None:
    with pytest.raises(RuntimeError, match="outside of tasks"):
        ray.get(ray.remote(request_counts).remote())


@pytest.mark.usefixtures("cluster")
def test_counts_are_a_ledger() -> None:
    assert isinstance(request_counts(), Ledger)


@pytest.mark.parametrize("known", [False, True], ids=["unmeasured", "known to be short"])
def test_a_long_task_holds_back_no_result_of_its_neighbours(
    own_cluster: Callable[..., Embedded], tmp_path: Path, known: bool
) -> None:
    """They are in one batch with it, and all there before it ends."""
    own_cluster(num_cpus=2)
    if known:
        measure()
    gate = tmp_path / "gate"
    refs = [short_or_long.remote(number, gate if number == 20 else None) for number in range(200)]
    long = refs.pop(20)
    found = ray.get(refs)
    assert [number for number, _ in found] == [n for n in range(200) if n != 20]
    assert ray.wait([long], timeout=0) == ([], [long])
    gate.touch()
    assert ray.get(long)[0] == 20


def test_tasks_behind_a_long_one_move_to_the_free_slot(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    """Known to be short, they had been sent to the process that the long one now holds."""
    own_cluster(num_cpus=2)
    measure()
    gates = [tmp_path / "first", tmp_path / "second"]
    refs = [
        short_or_long.remote(number, {10: gates[0], 150: gates[1]}.get(number))
        for number in range(300)
    ]
    first, second = refs[10], refs[150]
    # The second starts although the first is still there, and has got the other slot.
    wait_for(tmp_path / "first.started", tmp_path / "second.started")
    gates[1].touch()
    others = [ref for ref in refs if ref is not first]
    assert len(ray.get(others)) == 299
    gates[0].touch()
    assert ray.get(first)[1] != ray.get(second)[1]


@pytest.mark.parametrize("partners", [(0, 39), (3, 4), (11, 30), (38, 39)], ids=str)
def test_no_slot_idles_while_work_waits(
    own_cluster: Callable[..., Embedded], tmp_path: Path, partners: tuple[int, int]
) -> None:
    """Two that can only end together, hidden among others that look just like them."""
    own_cluster(num_cpus=2)

    @ray.remote
    def maybe_meet(number: int, partner: int | None) -> int:
        if partner is not None:
            meet(tmp_path, str(number), str(partner))
        return number

    ray.get([maybe_meet.remote(number, None) for number in range(200)])
    meeting = dict((partners, partners[::-1]))
    refs = [maybe_meet.remote(number, meeting.get(number)) for number in range(40)]
    assert ray.get(refs) == list(range(40))


def test_mixed_durations_keep_both_slots_busy(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=2)
    ray.get([nap.remote(0.001) for _ in range(4)])
    durations_s = [0.5 if number == 5 else 0.01 for number in range(80)]
    naps = ray.get([nap.remote(duration_s) for duration_s in durations_s])
    began_s = min(began for began, _, _ in naps)
    ended_s = max(ended for _, ended, _ in naps)
    busy_s = sum(ended - began for began, ended, _ in naps)
    # Two slots: at worst the long one is all that runs for a while at the end.
    assert busy_s / (2 * (ended_s - began_s)) > 0.5
    # While the long one slept, most of the short ones went past.
    long_began_s, long_ended_s, long_pid = max(naps, key=lambda it: it[1] - it[0])
    passed = [it for it in naps if long_began_s < it[0] and it[1] < long_ended_s]
    assert all(pid != long_pid for _, _, pid in passed)
    assert len(passed) >= 10


def test_results_arrive_while_their_batch_runs(own_cluster: Callable[..., Embedded]) -> None:
    """None waits for the last of its batch: most are there long before that one has begun."""
    own_cluster(num_cpus=1)
    refs = [nap.remote(0.03) for _ in range(30)]
    arrived_s = []
    pending = refs
    while pending:
        ready, pending = ray.wait(pending)
        arrived_s += [time.monotonic()] * len(ready)
    last_began_s = max(began for began, _, _ in ray.get(refs))
    assert sum(arrived < last_began_s for arrived in arrived_s) >= 15


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_tasks_that_need_each_other_travel_together() -> None:
    total = same.remote(0)
    for number in range(300):
        total = add.remote(total, number)
    assert ray.get(total) == sum(range(300))


def test_a_link_of_a_chain_costs_less_than_a_commit_interval(
    own_cluster: Callable[..., Embedded],
) -> None:
    """A chain of 100, and one task that sleeps as long as 50 intervals: the chain wins."""
    own_cluster(num_cpus=2)
    commit_s = 0.1
    ray.get([add.remote(1), nap.remote(0)])
    sleeper = nap.remote(50 * commit_s)
    total = same.remote(0)
    for number in range(100):
        total = add.remote(total, number)
    assert ray.wait([sleeper, total]) == ([total], [sleeper])
    ray.cancel(sleeper)


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_wide_graph_comes_together() -> None:
    leaves = [same.remote(number) for number in range(512)]
    while len(leaves) > 1:
        leaves = [add.remote(*leaves[first : first + 8]) for first in range(0, len(leaves), 8)]
    assert ray.get(leaves[0]) == sum(range(512))


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_functions_with_different_options_are_submitted_side_by_side() -> None:
    refs = []
    for number in range(60):
        option = same.options(
            num_cpus=(0.5, 1, 2)[number % 3], max_retries=(0, 3)[number % 2], name=f"n{number % 5}"
        )
        refs.append(option.remote(number))
    assert ray.get(refs) == list(range(60))


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_graphs_over_several_kinds_of_batches_have_no_cycles() -> None:
    """Each link is of another queue than the one before, so their batches need each other."""
    total = same.remote(0)
    for number in range(100):
        total = add.options(num_cpus=(1, 0.5, 2)[number % 3]).remote(total, number)
    assert ray.get(total) == sum(range(100))


@pytest.mark.usefixtures("cluster")
def test_large_arguments_close_a_batch() -> None:
    ballast = bytes(90_000)
    values = ray.get([same.remote((number, ballast)) for number in range(60)])
    assert [number for number, _ in values] == list(range(60))
    assert all(found == ballast for _, found in values)


@pytest.mark.usefixtures("cluster")
def test_short_tasks_are_shared_out_between_the_slots() -> None:
    ray.get([nap.remote(0.002) for _ in range(20)])
    pids = [pid for _, _, pid in ray.get([nap.remote(0.002) for _ in range(200)])]
    assert len(set(pids)) == 2
    assert min(pids.count(pid) for pid in set(pids)) >= 20
