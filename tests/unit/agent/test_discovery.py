from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudray.agent import discovery as discoveries
from cloudray.agent import holders
from cloudray.agent.rings import MAX_ASIDE, MAX_LOSSES
from cloudray.bells.base import Heard
from cloudray.bells.hints import Hint
from cloudray.protocol import claims
from cloudray.protocol.records import Batch, Claim, Task, seal, unseal
from cloudray.store import Delete, Get, Ledger, MemoryStore, Op, StoreError, drive, layout
from cloudray.store.layout import QueueName, claim_of
from tests.unit.agent.bench import (
    SETTINGS,
    Bench,
    Refusing,
    batch_of,
    name_of,
    ref,
    shape_of,
    store_job,
)
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import cancelled, done

BATCH = batch_of(2)
OTHER = batch_of(2, number=1)


def holder_of(bench: Bench, name: QueueName, number: int = 1) -> str | None:
    """Who holds a batch by its claim of this number."""
    key = claim_of(name.stem, number)
    body = bench.store.get(key)
    return None if body is None else unseal(Claim, body, key).agent


async def pass_leases(bench: Bench, leases: float) -> None:
    """Let time pass while the agent looks at the others as often as it should."""
    for _ in range(round(leases * 4)):
        await asyncio.sleep(SETTINGS.lease_s / 4)
        entries = bench.store.list(layout.AGENTS)
        bench.discovery.look_at_agents(
            {entry.key.removeprefix(layout.AGENTS): entry.etag for entry in entries}
        )


# -- rings ---------------------------------------------------------------------------------


async def test_a_batch_that_the_bell_names_is_claimed(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.discovery.heard((name,))
    assert holder_of(bench, name) == bench.agent.id
    await bench.settle()
    assert bench.holdings.has(BATCH.id)


async def test_a_batch_that_is_held_is_not_claimed_again(bench: Bench) -> None:
    name = bench.publish(BATCH)
    for _ in range(2):
        bench.discovery.heard((name,))
        await bench.settle()
    assert holder_of(bench, name, 2) is None


async def test_a_batch_that_is_being_claimed_is_not_claimed_again(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    name = bench.publish(BATCH)
    bench.discovery.heard((name,))
    bench.discovery.heard((name,))
    await asyncio.sleep(1)
    assert bench.ledger.as_dict()["put"] == 3 + 1
    assert holder_of(bench, name) == bench.agent.id


async def test_a_batch_that_somebody_else_holds_is_left_to_them(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.discovery.heard((name,))
    await bench.settle()
    assert not bench.holdings.has(BATCH.id)
    assert bench.discovery.watching


async def test_a_hint_that_outran_its_batch_gives_the_claim_back(bench: Bench) -> None:
    name = name_of(BATCH)
    bench.discovery.heard((name,))
    await bench.settle()
    assert (holder_of(bench, name, 1), holder_of(bench, name, 2)) == (bench.agent.id, "")
    bench.publish(BATCH)
    await bench.discovery.scan()
    assert holder_of(bench, name, 3) == bench.agent.id


async def test_a_batch_that_is_finished_is_removed_from_the_queue(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.write(BATCH, done(0), done(1), claim=1)
    bench.discovery.offer(name, 2)
    await bench.settle()
    assert bench.store.get(claim_of(name.stem, 0)) is None
    assert not bench.holdings.has(BATCH.id)


async def test_an_agent_that_leaves_claims_nothing(bench: Bench) -> None:
    bench.discovery.stopped = True
    name = bench.publish(BATCH)
    bench.discovery.heard((name,))
    assert holder_of(bench, name) is None


@pytest.mark.parametrize("cpus", [1.0, 3.0])
async def test_a_claim_that_the_store_refused_can_be_tried_again(
    make_bench: Make, cpus: float
) -> None:
    store = Refusing()
    bench = make_bench(cpus=3, store=store)
    name = bench.publish(batch_of(1, shape_of(cpus=cpus)))
    store.refused = layout.QUEUE
    bench.discovery.heard((name,))
    await bench.settle()
    assert not bench.holdings.has(name.batch)
    store.refused = ""
    bench.discovery.heard((name,))
    await bench.settle()
    assert bench.holdings.has(name.batch)


# -- what fits -----------------------------------------------------------------------------


@pytest.mark.parametrize("klass", ["py27-cpu1-m0", "py311-cpu8-m0", "py311-cpu1-m64", "nonsense"])
async def test_a_class_that_no_batch_of_could_fit_is_not_even_read(
    bench: Bench, klass: str
) -> None:
    before = bench.ledger.as_dict()
    bench.discovery.heard((name_of(BATCH, klass),))
    await bench.settle()
    assert bench.ledger.subtract(before).priced_requests == 0


async def test_a_batch_of_a_class_that_always_fits_is_claimed_unread(make_bench: Make) -> None:
    bench = make_bench(cpus=4)
    batch = batch_of(1, shape_of(cpus=3.0))
    bench.discovery.heard((bench.publish(batch),))
    assert bench.holdings.has(batch.id)


@pytest.mark.parametrize(("cpus", "fits"), [(3.0, True), (4.0, False)])
async def test_a_batch_of_a_class_that_may_fit_is_read_first(
    make_bench: Make, cpus: float, fits: bool
) -> None:
    bench = make_bench(cpus=3)
    batch = batch_of(1, shape_of(cpus=cpus))
    name = bench.publish(batch)
    bench.discovery.heard((name,))
    await bench.settle()
    assert bench.holdings.has(batch.id) is fits
    assert (holder_of(bench, name) is not None) is fits


async def test_a_batch_that_does_not_fit_is_read_once(make_bench: Make) -> None:
    bench = make_bench(cpus=3)
    name = bench.publish(batch_of(1, shape_of(cpus=4.0)))
    bench.discovery.heard((name,))
    await bench.settle()
    before = bench.ledger.as_dict()
    bench.discovery.heard((name,))
    await bench.settle()
    assert bench.ledger.subtract(before).priced_requests == 0


async def test_a_cancelled_batch_that_does_not_fit_is_retired_also_in_the_middle_of_a_scan(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(cpus=3)
    batch = batch_of(1, shape_of(cpus=4.0))
    name = bench.publish(batch)
    await bench.discovery.scan()
    await bench.settle()
    bench.write(batch, cancelled(0))
    learn = bench.discovery._holders.learn

    async def asked_meanwhile(
        claims: list[tuple[QueueName, int]], etags: dict[str, str], *, agents: int
    ) -> None:
        bench.discovery.look_at(batch.id)
        await learn(claims, etags, agents=agents)

    monkeypatch.setattr(bench.discovery._holders, "learn", asked_meanwhile)
    await bench.discovery.scan()
    await bench.settle()
    assert bench.store.get(claim_of(name.stem, 0)) is None


async def test_a_claim_that_comes_late_where_another_was_deleted_is_read_again(
    bench: Bench,
) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    await bench.discovery.scan()
    await bench.settle()
    assert holder_of(bench, name, 2) is None
    # It names this agent, which knows nothing of it.
    bench.claim(name, 1, bench.agent.id)
    await bench.discovery.scan()
    await bench.settle()
    assert holder_of(bench, name, 2) == bench.agent.id


async def test_a_batch_that_has_gone_before_it_could_be_read_is_forgotten(
    make_bench: Make,
) -> None:
    bench = make_bench(cpus=3)
    name = name_of(batch_of(1, shape_of(cpus=3.0)))
    bench.discovery.heard((name,))
    await bench.settle()
    assert holder_of(bench, name) is None
    bench.publish(batch_of(1, shape_of(cpus=3.0)))
    bench.discovery.heard((name,))
    await bench.settle()
    assert holder_of(bench, name) == bench.agent.id


# -- how much is claimed -------------------------------------------------------------------


async def publish_long_ones(bench: Bench) -> list[QueueName]:
    """Six batches, each of two tasks that are known to take a second."""
    await bench.hold(batch_of(2, number=99))
    for executor in bench.executors:
        executor.end(*executor.queue, duration_us=1_000_000)
    await bench.settle()
    return [bench.publish(batch_of(2, number=number)) for number in range(6)]


async def test_no_more_is_claimed_than_should_start_soon(bench: Bench) -> None:
    names = await publish_long_ones(bench)
    bench.discovery.heard(tuple(names))
    # Two tasks run, and as many wait as two slots work off in two seconds.
    assert len(bench.holdings.by_batch) == 3


async def test_what_has_been_claimed_and_is_still_being_read_counts(bench: Bench) -> None:
    names = [bench.publish(batch_of(60, number=number)) for number in range(6)]
    bench.discovery.heard(tuple(names))
    assert [holder_of(bench, name) is not None for name in names] == [True] * 2 + [False] * 4


async def test_when_something_has_ended_the_next_is_claimed(bench: Bench) -> None:
    names = await publish_long_ones(bench)
    bench.discovery.heard(tuple(names))
    assert holder_of(bench, names[3]) is None
    for executor in bench.executors:
        executor.end(*executor.queue, duration_us=1_000_000)
    await bench.settle()
    assert holder_of(bench, names[3]) == bench.agent.id


async def test_what_a_task_submits_is_claimed_however_busy_the_machine_is(bench: Bench) -> None:
    bench.measure(10_000_000.0)
    await bench.hold(batch_of(8))
    name = bench.publish(OTHER)
    bench.discovery.heard((name,))
    assert holder_of(bench, name) is None
    bench.discovery.offer(name, urgent=True)
    assert holder_of(bench, name) == bench.agent.id


async def test_a_fenced_agent_claims_nothing_from_others(bench: Bench) -> None:
    bench.dispatcher.fenced = True
    name = bench.publish(BATCH)
    bench.discovery.heard((name,))
    assert holder_of(bench, name) is None


async def test_an_agent_full_of_waiting_tasks_takes_only_what_can_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoveries, "MAX_WAITING_TASKS", 1)
    pending, ready = batch_of(1, number=7), batch_of(1, number=8)
    await bench.hold(batch_of(tasks=[Task(0, b"", b"", (ref(pending),))]))
    unready = batch_of(tasks=[Task(0, b"", b"", (ref(pending),))], number=1)
    bench.write(ready, done(0))
    waits_no_longer = batch_of(tasks=[Task(0, b"", b"", (ref(ready),))], number=2)
    for batch in (unready, waits_no_longer):
        bench.discovery.heard((bench.publish(batch),))
    await bench.settle()
    assert not bench.holdings.has(unready.id)
    assert bench.holdings.has(waits_no_longer.id)


# -- scanning ------------------------------------------------------------------------------


async def test_a_scan_finds_what_no_bell_rang_for(bench: Bench) -> None:
    name = bench.publish(BATCH)
    await bench.discovery.scan()
    assert holder_of(bench, name) == bench.agent.id


async def test_a_scan_reads_page_after_page(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discoveries, "PAGE", 2)
    held = [batch_of(1, number=number) for number in range(5)]
    for batch in held:
        bench.claim(bench.publish(batch), 1, "other")
    last = bench.publish(batch_of(1, number=9))
    await bench.discovery.scan()
    assert holder_of(bench, last) == bench.agent.id


async def test_a_scan_passes_over_what_is_no_batch(bench: Bench) -> None:
    for key in ("queue/odd", "queue/odd.0", "queue/py311-cpu1-m0/5/odd.0", "queue/a.b"):
        bench.store.put(key, b"")
    name = bench.publish(BATCH)
    await bench.discovery.scan()
    assert holder_of(bench, name) == bench.agent.id


async def test_a_batch_that_was_given_back_is_taken_at_once(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.claim(name, 2, "")
    await bench.discovery.scan()
    assert holder_of(bench, name, 3) == bench.agent.id


async def test_a_batch_that_is_ours_although_we_know_nothing_of_it_is_claimed_anew(
    bench: Bench,
) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, bench.agent.id)
    await bench.discovery.scan()
    assert holder_of(bench, name, 2) == bench.agent.id


async def test_who_holds_a_batch_is_read_once(bench: Bench) -> None:
    bench.claim(bench.publish(BATCH), 1, "other")
    await bench.discovery.scan()
    before = bench.ledger.as_dict()
    await bench.discovery.scan()
    assert bench.ledger.subtract(before).as_dict()["get"] == 0


# -- the dead ------------------------------------------------------------------------------


async def test_the_batches_of_an_agent_that_died_are_taken_over(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.beat("other", 1)
    await bench.discovery.scan()
    await pass_leases(bench, 0.75)
    assert holder_of(bench, name, 2) is None
    await pass_leases(bench, 0.5)
    assert holder_of(bench, name, 2) == bench.agent.id


async def test_an_agent_that_beats_keeps_its_batches(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    await bench.discovery.scan()
    for beat in range(8):
        bench.beat("other", beat)
        await pass_leases(bench, 0.5)
    assert holder_of(bench, name, 2) is None


async def test_an_agent_that_never_beat_is_dead_too(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.discovery.heard((name,))
    await pass_leases(bench, 1.5)
    assert holder_of(bench, name, 2) == bench.agent.id


async def test_the_dead_are_named(bench: Bench) -> None:
    bench.beat("other", 1)
    (entry,) = bench.store.list(layout.AGENTS)
    etags = {"other": entry.etag, bench.agent.id: "1"}
    found = set()
    for _ in range(8):
        found |= bench.discovery.look_at_agents(etags)
        await asyncio.sleep(SETTINGS.lease_s / 4)
    assert found == {"other"}


async def test_a_batch_that_ended_meanwhile_is_not_watched_any_more(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    await bench.discovery.scan()
    assert bench.discovery.watching
    bench.store.perform(Delete((claim_of(name.stem, 0),)))
    await bench.discovery.scan()
    assert not bench.discovery.watching


# -- leftovers -----------------------------------------------------------------------------


async def leave_claims(bench: Bench, batch: Batch) -> QueueName:
    """Leave the claims of a batch whose entry has gone, as an agent does that dies then."""
    name = bench.publish(batch)
    for number in (1, 2):
        bench.claim(name, number, "other")
    bench.store.perform(Delete((claim_of(name.stem, 0),)))
    return name


async def test_claims_of_a_finished_batch_are_swept_after_some_leases(bench: Bench) -> None:
    await leave_claims(bench, BATCH)
    bench.write(BATCH, done(0), done(1))
    await bench.discovery.scan()
    assert len(bench.keys(layout.QUEUE)) == 2
    await asyncio.sleep(3.5 * SETTINGS.lease_s)
    await bench.discovery.scan()
    assert bench.keys(layout.QUEUE) == []


async def test_claims_of_a_batch_that_is_not_finished_stay(bench: Bench) -> None:
    await leave_claims(bench, BATCH)
    bench.write(BATCH, done(0))
    for _ in range(3):
        await bench.discovery.scan()
        await asyncio.sleep(3.5 * SETTINGS.lease_s)
    assert len(bench.keys(layout.QUEUE)) == 2


async def test_an_entry_that_comes_after_its_claims_starts_the_wait_anew(bench: Bench) -> None:
    name = await leave_claims(bench, BATCH)
    await bench.discovery.scan()
    store_job(bench.store, BATCH)
    bench.publish(BATCH)
    await asyncio.sleep(3.5 * SETTINGS.lease_s)
    await bench.discovery.scan()
    bench.store.perform(Delete((claim_of(name.stem, 0),)))
    bench.write(BATCH, done(0), done(1))
    await bench.discovery.scan()
    assert len(bench.keys(layout.QUEUE)) == 2


# -- rings that others hear too ------------------------------------------------------------


def heard_of(*names: QueueName, body: bytes = b"") -> list[Heard]:
    return [Heard(Hint(name), body) for name in names]


class Messages:
    """Hints that say whether they were taken."""

    def __init__(self) -> None:
        self.taken: list[bool] = []

    def of(self, name: QueueName, body: bytes = b"") -> list[Heard]:
        return [Heard(Hint(name), body, self._settle)]

    def _settle(self, *, taken: bool) -> None:
        self.taken.append(taken)


@pytest.fixture
def fruitless(bench: Bench) -> list[str]:
    """Grows with every ring that was in vain."""
    said: list[str] = []
    bench.discovery.on_fruitless = lambda: said.append("in vain")
    return said


async def test_a_hint_is_taken_by_who_claims_its_batch(bench: Bench, fruitless: list[str]) -> None:
    messages = Messages()
    name = bench.publish(BATCH)
    bench.discovery.told(messages.of(name))
    assert holder_of(bench, name) == bench.agent.id
    assert (messages.taken, fruitless) == ([True], [])


async def test_a_hint_whose_batch_another_holds_is_of_no_more_use(
    bench: Bench, fruitless: list[str]
) -> None:
    messages = Messages()
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.discovery.told(messages.of(name))
    assert (messages.taken, fruitless) == ([True], [])


async def test_a_hint_that_an_agent_cannot_use_is_left_to_others(
    bench: Bench, fruitless: list[str]
) -> None:
    messages = Messages()
    name = bench.publish(batch_of(1, shape_of(cpus=64.0)))
    bench.discovery.told(messages.of(name))
    assert (messages.taken, fruitless) == ([False], [])


async def test_a_ring_that_names_nothing_new_is_in_vain(bench: Bench, fruitless: list[str]) -> None:
    bench.discovery.told([])
    assert fruitless == ["in vain"]


async def test_a_hint_about_what_is_held_is_no_news(bench: Bench, fruitless: list[str]) -> None:
    messages = Messages()
    held = await bench.hold(BATCH)
    bench.discovery.told(messages.of(held.name))
    assert (messages.taken, fruitless) == ([True], [])


async def test_where_others_took_the_first_the_rest_of_a_ring_is_not_tried(
    bench: Bench, fruitless: list[str]
) -> None:
    names = [bench.publish(batch_of(1, number=number)) for number in range(20)]
    for name in names:
        bench.claim(name, 1, "other")
    before = bench.ledger.as_dict()["put"]
    bench.discovery.told(heard_of(*names))
    assert bench.ledger.as_dict()["put"] - before == MAX_LOSSES
    assert fruitless == ["in vain"]


async def test_of_many_agents_few_go_at_once_for_a_batch_that_all_hear_of(bench: Bench) -> None:
    bench.discovery.others = 999
    names = [bench.publish(batch_of(1, number=number)) for number in range(100)]
    bench.discovery.told(heard_of(*names))
    assert sum(holder_of(bench, name) is not None for name in names) < 10


async def test_what_was_left_to_others_and_nobody_holds_is_claimed_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.discovery.others = 999
    monkeypatch.setattr(discoveries, "is_keen", lambda *_: False)
    names = [bench.publish(batch_of(1, number=number)) for number in range(MAX_ASIDE)]
    bench.discovery.told(heard_of(*names))
    assert bench.discovery.has_aside
    for name in names[2:]:
        bench.claim(name, 1, "other")
    before = bench.ledger.as_dict()
    await bench.discovery.look_aside()
    assert [holder_of(bench, name) for name in names[:2]] == [bench.agent.id] * 2
    # No claim is tried that another holds: reading is cheaper than losing.
    assert bench.ledger.subtract(before).as_dict()["put"] == 2
    assert not bench.discovery.has_aside


async def test_a_message_that_one_agent_hears_is_its_own(bench: Bench) -> None:
    bench.discovery.others = 999
    names = [bench.publish(batch_of(1, number=number)) for number in range(5)]
    bench.discovery.told(heard_of(*names), shared=False)
    assert [holder_of(bench, name) for name in names] == [bench.agent.id] * 5


async def test_a_batch_that_was_given_back_is_claimed_by_its_next_number(bench: Bench) -> None:
    name = bench.publish(BATCH)
    bench.claim(name, 1, "other")
    bench.claim(name, 2, "")
    bench.discovery.told([Heard(Hint(name, 3))])
    assert holder_of(bench, name, 3) == bench.agent.id


async def test_a_batch_that_a_message_brought_need_not_be_there_yet(bench: Bench) -> None:
    store_job(bench.store, BATCH)
    bench.discovery.told(heard_of(name_of(BATCH), body=seal(BATCH)))
    await bench.settle()
    assert bench.holdings.has(BATCH.id)


@pytest.mark.parametrize("body", [b"no record", seal(OTHER), seal(Claim("agent"))])
async def test_what_a_message_brought_wrongly_is_not_run(bench: Bench, body: bytes) -> None:
    store_job(bench.store, BATCH)
    bench.discovery.told(heard_of(name_of(BATCH), body=body))
    await bench.settle()
    assert not bench.holdings.has(BATCH.id)
    assert holder_of(bench, name_of(BATCH), 2) == ""


async def test_far_away_a_claim_counts_while_it_is_under_way(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    names = [bench.publish(batch_of(200, number=number)) for number in range(4)]
    bench.discovery.told(heard_of(*names))
    await asyncio.sleep(0)
    assert bench.discovery.is_full
    assert len(bench.discovery.claiming) == 1


# -- among others --------------------------------------------------------------------------


async def test_agents_that_know_the_same_batches_begin_with_different_ones(
    make_bench: Make,
) -> None:
    bench = make_bench(remote=True)
    names = [bench.publish(batch_of(30, number=number)) for number in range(16)]
    names.sort(key=lambda name: name.stem)
    bench.discovery.others = 3
    await bench.discovery.scan()
    await bench.settle()
    claimed = [number for number, name in enumerate(names) if holder_of(bench, name)]
    assert 0 < len(claimed) < 16
    assert claimed != list(range(len(claimed)))


async def test_an_agent_that_is_alone_keeps_to_the_order(bench: Bench) -> None:
    names = [bench.publish(batch_of(40, number=number)) for number in range(4)]
    await bench.discovery.scan()
    await bench.settle()
    holders = [holder_of(bench, name) is not None for name in names]
    assert holders == sorted(holders, reverse=True)
    assert any(holders)
    assert not all(holders)


async def test_a_full_agent_leaves_what_its_own_tasks_submit_to_others(bench: Bench) -> None:
    await bench.hold(batch_of(200, number=9))
    assert bench.discovery.is_full
    left, kept = bench.publish(batch_of(1)), bench.publish(batch_of(1, number=1))
    bench.discovery.others = 1
    bench.discovery.offer(left, urgent=True)
    assert holder_of(bench, left) is None
    bench.discovery.others = 0
    bench.discovery.offer(kept, urgent=True)
    assert holder_of(bench, kept) == bench.agent.id


async def test_a_scan_far_away_reads_no_further_than_it_must(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoveries, "PAGE", 10)
    monkeypatch.setattr(discoveries, "ENOUGH", 15)
    bench = make_bench(remote=True)
    for number in range(100):
        bench.publish(batch_of(200, number=number))
    before = bench.ledger.as_dict()
    await bench.discovery.scan()
    assert bench.ledger.subtract(before).as_dict()["list"] == 2


async def test_a_scan_pages_past_what_others_run(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoveries, "PAGE", 10)
    bench = make_bench(remote=True)
    names = [bench.publish(batch_of(1, number=number)) for number in range(30)]
    names.sort(key=lambda name: name.stem)
    for name in names[:-1]:
        bench.claim(name, 1, "other")
    await bench.discovery.scan()
    await bench.settle()
    assert holder_of(bench, names[-1]) == bench.agent.id


async def test_far_away_claims_are_read_together_and_of_many_only_some(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "MAX_STRANGERS", 8)
    monkeypatch.setattr(holders, "FEW_STRANGERS", 1)
    bench = make_bench(remote=True)
    for number in range(20):
        bench.claim(bench.publish(batch_of(1, number=number)), 1, f"other {number}")
    read = []
    for _ in range(4):
        before = bench.ledger.as_dict()
        await bench.discovery.scan()
        read.append(bench.ledger.subtract(before).as_dict()["get"])
    assert read == [8, 8, 4, 0]


async def test_who_loses_claims_to_others_gives_up_what_it_knows_of_the_queue(
    make_bench: Make,
) -> None:
    bench = make_bench(remote=True)
    fruitless: list[str] = []
    bench.discovery.on_fruitless = lambda: fruitless.append("stale")
    names = [bench.publish(batch_of(30, number=number)) for number in range(20)]
    bench.discovery.others = 9
    await bench.discovery.scan()
    for name in names:
        bench.claim(name, 1, "other")
    before = bench.ledger.as_dict()["put"]
    await bench.settle()
    assert bench.ledger.as_dict()["put"] - before <= 2 * MAX_LOSSES
    assert fruitless == ["stale"]


async def test_a_quick_scan_reads_nobodys_claims(make_bench: Make) -> None:
    bench = make_bench(remote=True)
    for number in range(20):
        bench.claim(bench.publish(batch_of(1, number=number)), 1, f"other {number}")
    free = bench.publish(batch_of(1, number=20))
    before = bench.ledger.as_dict()
    await bench.discovery.scan(quick=True)
    assert bench.ledger.subtract(before) == Ledger(list=1)
    await bench.settle()
    assert holder_of(bench, free) == bench.agent.id


async def test_what_the_queue_shows_to_be_taken_is_a_candidate_no_more(bench: Bench) -> None:
    await bench.hold(batch_of(200, number=9))
    name = bench.publish(BATCH)
    messages = Messages()
    bench.discovery.told(messages.of(name))
    assert messages.taken == []
    bench.claim(name, 1, "other")
    await bench.discovery.scan()
    assert messages.taken == [True]


# -- a store that fails ------------------------------------------------------------------------


class Failing(MemoryStore):
    """A store that lists what it cannot read."""

    fails = False

    def perform(self, op: Op) -> Any:
        if self.fails and isinstance(op, Get):
            raise StoreError("no permission")
        return super().perform(op)


async def test_a_scan_that_fails_midway_leaves_everybody_under_watch(make_bench: Make) -> None:
    store = Failing()
    bench = make_bench(store=store)
    for number, agent in enumerate(("one", "other")):
        bench.claim(bench.publish(batch_of(1, number=number)), 1, agent)
    await bench.discovery.scan()
    bench.claim(bench.publish(batch_of(1, number=2)), 1, "third")
    store.fails = True
    with pytest.raises(StoreError):
        await bench.discovery.scan()
    assert bench.discovery._watched.agents == {"one", "other"}


async def test_who_holds_nothing_any_more_is_not_watched(bench: Bench) -> None:
    name = bench.publish(batch_of(1))
    bench.claim(name, 1, "one")
    await bench.discovery.scan()
    drive(bench.store, claims.retire(name))
    await bench.discovery.scan()
    assert not bench.discovery.watching
