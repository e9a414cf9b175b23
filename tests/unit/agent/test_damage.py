"""An agent meets records that it cannot read: damaged ones, or of a later version."""

from __future__ import annotations

import logging

import pytest

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Claim, Ending, Parent, seal
from cloudray.store import layout
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import Bench, batch_of, store_job
from tests.unit.agent.conftest import Make

#: What a later version would write, as far as this one can tell.
LATER = seal(Claim("later"))[:4] + b"\x09" + seal(Claim("later"))[5:]
DAMAGED = b"x" * 100
BATCH, GOOD = batch_of(2), batch_of(1, number=1)


async def scan(bench: Bench, count: int = 3) -> None:
    for _ in range(count):
        await bench.discovery.scan()
        await bench.settle()


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("strange", [LATER, DAMAGED])
async def test_a_claim_that_cannot_be_read_hides_no_other_batch(
    make_bench: Make, *, remote: bool, strange: bytes
) -> None:
    bench = make_bench(remote=remote)
    held = bench.publish(BATCH)
    given_back = bench.publish(GOOD)
    bench.claim(given_back, 1, "")
    bench.store.put(claim_of(held.stem, 1), strange)
    await scan(bench)
    assert bench.holdings.has(GOOD.id)


async def test_a_batch_that_a_later_version_holds_is_reported_once_and_left(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    name = bench.publish(BATCH)
    bench.store.put(claim_of(name.stem, 1), LATER)
    with caplog.at_level(logging.WARNING):
        bench.discovery.offer(name)
        await scan(bench)
    assert bench.keys(name.stem) == [claim_of(name.stem, number) for number in (0, 1)]
    assert caplog.text.count("is skipped") == 1


async def test_a_batch_whose_journal_is_damaged_is_claimed_once_and_given_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    name = bench.publish(BATCH)
    bench.store.put(journals.key(BATCH.id, 0), DAMAGED)
    with caplog.at_level(logging.WARNING):
        await scan(bench)
    assert bench.keys(name.stem) == [claim_of(name.stem, number) for number in (0, 1, 2)]
    assert caplog.text.count(journals.key(BATCH.id, 0)) == 1


async def test_a_batch_whose_parents_journal_is_damaged_is_claimed_once_and_given_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    child = batch_of(1, parent=Parent(BATCH.id, 0, 1, 0), number=5)
    bench.store.put(journals.key(BATCH.id, 0), DAMAGED)
    name = bench.publish(child)
    with caplog.at_level(logging.WARNING):
        await scan(bench)
    assert not bench.holdings.has(child.id)
    assert bench.keys(name.stem) == [claim_of(name.stem, number) for number in (0, 1, 2)]
    assert caplog.text.count(journals.key(BATCH.id, 0)) == 1


async def test_a_damaged_mark_keeps_no_other_job_from_ending(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.hold(BATCH)
    other = ids.batch_id(ids.batch_prefix(7, b"another-jb", bytes(ids.ID_BYTES)), 0)
    ended = batch_of(1)
    ended = type(ended)(other, ended.shapes, ended.tasks)
    store_job(bench.store, ended)
    await bench.hold(ended)
    bench.store.put(layout.ending(BATCH.id), DAMAGED)
    bench.store.put(layout.ending(other), seal(Ending(5.0, "deleted")))
    await bench.agent._heartbeat()
    with caplog.at_level(logging.WARNING):
        await bench.agent._look_for_endings()
    await bench.settle()
    assert (bench.holdings.has(BATCH.id), bench.holdings.has(other)) == (True, False)
    assert caplog.text.count(layout.ending(BATCH.id)) == 1
