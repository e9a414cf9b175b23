"""An agent meets what somebody without the cluster's key has put into the bucket."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cloudray.keyring import new_key
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Claim, Entry, Heartbeat, seal, unseal
from cloudray.store import Kind, MemoryStore, Signed, envelope, layout
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import Bench, batch_of, name_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import done

KEY = new_key("a test")
BATCH = batch_of(2)
GOOD = batch_of(1, number=1)


@pytest.fixture
def raw() -> MemoryStore:
    """What somebody who may write to the bucket sees."""
    return MemoryStore()


@pytest.fixture
def keyed(make_bench: Make, raw: MemoryStore) -> Bench:
    """An agent of a cluster that has a key."""
    return make_bench(store=Signed(raw, KEY))


async def test_a_forged_batch_is_reported_once_and_skipped(
    keyed: Bench, raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = name_of(BATCH)
    raw.put(claim_of(name.stem, 0), seal(BATCH))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await keyed.discovery.scan()
            await keyed.settle()
        good = keyed.publish(GOOD)
        await keyed.discovery.scan()
        await keyed.settle()
    assert not keyed.holdings.has(BATCH.id)
    assert keyed.holdings.has(GOOD.id)
    assert good.batch == GOOD.id
    assert caplog.text.count(claim_of(name.stem, 0)) == 1
    # It was claimed once, and given back.
    assert len(raw.list(name.stem)) == 3


async def test_a_forged_batch_does_not_hide_one_of_the_same_name(
    keyed: Bench, raw: MemoryStore
) -> None:
    name = keyed.publish(BATCH)
    body = raw.get(claim_of(name.stem, 0))
    assert body is not None
    raw.put(claim_of(name.stem.replace("-m0/", "-m1/"), 0), body)
    for _ in range(3):
        await keyed.discovery.scan()
        await keyed.settle()
    assert keyed.holdings.has(BATCH.id)


async def test_a_forged_claim_makes_no_batch_look_held(keyed: Bench, raw: MemoryStore) -> None:
    name = keyed.publish(BATCH)
    raw.put(claim_of(name.stem, 1), seal(Claim("attacker")))
    raw.put(claim_of(name.stem, 2), b"")
    for _ in range(3):
        await keyed.discovery.scan()
        await keyed.settle()
    assert keyed.holdings.has(BATCH.id)


async def test_a_forged_claim_makes_no_batch_look_abandoned(keyed: Bench, raw: MemoryStore) -> None:
    name = keyed.publish(BATCH)
    keyed.claim(name, 1, "other")
    raw.put(claim_of(name.stem, 2), seal(Claim("")))
    await keyed.discovery.scan()
    await keyed.settle()
    assert not keyed.holdings.has(BATCH.id)
    assert keyed.discovery.watching


@pytest.mark.parametrize(
    "key",
    [
        "queue/py311-cpu1-m0/5/x.0",
        "queue/py311-cpu1-m0/5/x.1",
        "queue/py311-cpu1-m0/5/{stem}.01",
        "queue/py311-cpu1-m0/5/{stem}.\u0661",
        "queue/py311-cpu1-m0/5/{stem}." + "9" * 5000,
        "queue/py311-cpu1-m0/5/{stem}.999999999",
        "queue/py311-cpu1-m0/5/{STEM}.0",
        "queue/\N{PILE OF POO}/5/{stem}.0",
        "queue/...0",
        "queue/a/b/c/d/e.0",
        "agents/a/b",
        "agents/\u202ename",
    ],
)
async def test_a_strange_key_disturbs_nobody(keyed: Bench, raw: MemoryStore, key: str) -> None:
    name = keyed.publish(BATCH)
    stem = name.stem.rpartition("/")[2]
    raw.put(key.format(stem=stem, STEM=stem.upper()), seal(BATCH))
    for _ in range(3):
        await keyed.discovery.scan()
        await keyed.agent._mind_the_others()
        await keyed.settle()
    assert keyed.holdings.has(BATCH.id)
    claims = [entry.key for entry in raw.list("queue/") if entry.key.endswith((".2", ".3"))]
    assert claims == []


async def test_a_forged_function_fails_its_calls_and_is_not_loaded(
    keyed: Bench, raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = keyed.publish(BATCH)
    blob = layout.blob(BATCH.id, BATCH.shapes[0].function)
    raw.put(blob, envelope.seal(Kind.BLOB, b"pickle bomb"))
    keyed.discovery.heard((name,))
    await keyed.settle()
    assert keyed.executors == []
    key = journals.key(BATCH.id, 0)
    entry = unseal(Entry, keyed.store.get(key) or b"", key)
    assert all(blob.encode() in word.values[0] for word in entry.words)
    assert blob in caplog.text


async def test_a_forged_result_of_a_dependency_is_stepped_over(
    keyed: Bench, raw: MemoryStore
) -> None:
    got: list[bytes] = []
    keyed.publish(BATCH)
    raw.put(journals.key(BATCH.id, 0), seal(Entry(1, (done(0, b"forged"),))))
    identifier = BATCH.id + bytes(4)
    keyed.resolver.want(identifier, lambda _, payload: got.append(payload))
    await asyncio.sleep(0.1)
    keyed.store.put(journals.key(BATCH.id, 1), seal(Entry(1, (done(0, b"right"),))))
    await asyncio.sleep(5)
    assert got == [b"right"]


async def test_refused_records_are_counted_in_the_heartbeat(keyed: Bench, raw: MemoryStore) -> None:
    for number in range(2):
        raw.put(claim_of(name_of(batch_of(1, number=number)).stem, 0), b"forged")
    await keyed.discovery.scan()
    await keyed.settle()
    await keyed.agent._heartbeat()
    key = layout.agent(keyed.agent.id)
    assert unseal(Heartbeat, keyed.store.get(key) or b"", key).refused == 2
