from __future__ import annotations

from cloudray.agent.rings import KEEN, MAX_LOSSES, Ring, is_keen


def test_a_ring_that_brought_work_is_not_stale() -> None:
    ring = Ring()
    settled = [ring.settle(fruitful=True)]
    for _ in range(MAX_LOSSES + 1):
        ring.lost += 1
        settled.append(ring.settle(fruitful=False))
    assert not any(settled)


def test_a_ring_of_which_others_took_much_turns_out_to_be_stale_once() -> None:
    ring = Ring()
    settled = []
    for _ in range(MAX_LOSSES + 2):
        ring.lost += 1
        settled.append(ring.settle(fruitful=False))
    assert settled.index(True) == MAX_LOSSES - 1
    assert settled.count(True) == 1


def test_few_agents_all_go_for_everything() -> None:
    assert all(is_keen(b"batch", f"agent {number}", KEEN) for number in range(KEEN))


def test_of_many_agents_few_go_for_each_batch_and_each_for_some() -> None:
    agents = [f"agent {number}" for number in range(100)]
    batches = [b"batch %d" % number for number in range(500)]
    keen = [[is_keen(batch, agent, 100) for batch in batches] for agent in agents]
    assert 0.8 * KEEN < sum(map(sum, keen)) / len(batches) < 1.2 * KEEN
    assert all(map(any, keen))
