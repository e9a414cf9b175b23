from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.protocol import endings, jobs
from cloudray.protocol.jobs import Listed
from cloudray.protocol.records import Ending
from cloudray.store import MemoryStore, drive, layout
from tests.unit.agent.bench import JOB, Bench, batch_of, name_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import PREFIX

DAY_S = endings.DAY_S
LISTED = Listed(ids.days_of(PREFIX), JOB.id, JOB)


class Clocked(MemoryStore):
    """A store whose clock the test moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000_000.0
        self.clock = lambda: self.now_s


@pytest.fixture
def store() -> Clocked:
    return Clocked()


@pytest.fixture
def bench(make_bench: Make, store: Clocked) -> Bench:
    return make_bench(store=store)


def mark(bench: Bench) -> None:
    drive(bench.store, endings.mark(LISTED, Ending(5.0, endings.DELETED)))


async def look(bench: Bench) -> None:
    await bench.agent._heartbeat()
    await bench.agent._look_for_endings()
    await bench.settle()


async def test_what_runs_of_a_job_that_was_deleted_is_stopped(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    mark(bench)
    await look(bench)
    assert not bench.holdings.has(batch.id)
    assert bench.workers.all == set()
    assert bench.said(batch) == []
    assert bench.store.get(layout.claim_of(name_of(batch).stem, 0)) is None


async def test_nothing_more_of_it_is_run(bench: Bench) -> None:
    await bench.hold(batch_of(1))
    mark(bench)
    await look(bench)
    late = batch_of(1, number=1)
    bench.discovery.offer(bench.publish(late))
    await bench.settle()
    assert not bench.holdings.has(late.id)
    assert bench.store.get(layout.claim_of(name_of(late).stem, 0)) is None


async def test_an_agent_that_never_met_the_job_reads_that_it_has_ended(bench: Bench) -> None:
    batch = batch_of(1)
    name = bench.publish(batch)
    mark(bench)
    bench.discovery.offer(name)
    await bench.settle()
    assert bench.executors == []
    assert bench.journal(batch).complete


async def test_a_job_ends_when_its_retention_is_over_by_the_stores_clock(
    bench: Bench, store: Clocked
) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    store.now_s += 7 * DAY_S
    await look(bench)
    assert bench.holdings.has(batch.id)
    store.now_s += 1
    await look(bench)
    assert not bench.holdings.has(batch.id)
    listed = drive(bench.store, jobs.read_job(batch.id))
    assert listed.ending == Ending(int(store.now_s), "its job's retention of 7 days was over")


async def test_other_jobs_go_on(bench: Bench) -> None:
    batch = batch_of(1)
    await bench.hold(batch)
    await look(bench)
    (executor,) = bench.executors
    executor.end(*executor.queue)
    assert bench.journal(batch).complete


async def test_an_agent_that_holds_nothing_asks_for_nothing(bench: Bench) -> None:
    before = bench.ledger.as_dict()
    await bench.agent._look_for_endings()
    assert bench.ledger.subtract(before).priced_requests == 0


async def test_functions_of_many_jobs_are_forgotten_but_for_those_in_use(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudray.agent import functions

    monkeypatch.setattr(functions, "MAX_JOBS", 1)
    await bench.hold(batch_of(1))
    known = bench.functions
    for number in range(5):
        known._jobs[number.to_bytes(10, "big")] = JOB
        known._blobs[number.to_bytes(10, "big"), "f"] = b"pickled"
    await bench.agent._look_for_endings()
    assert list(known._jobs) == [JOB.id]
    assert {job for job, _ in known._blobs} == {JOB.id}
