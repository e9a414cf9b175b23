from __future__ import annotations

import asyncio

import msgspec
import pytest

from cloudray.agent.misfits import PATIENCE_S, nearest
from cloudray.protocol import messages as m
from cloudray.protocol.demand import UNIT, class_of, python_tag, to_units
from cloudray.protocol.records import Batch, Heartbeat, seal
from cloudray.store import Delete, layout
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import JOB, Bench, Wire, batch_of, name_of, shape_of
from tests.unit.agent.conftest import Make
from tests.unit.protocol.builders import done

#: Nobody on the bench, which has two CPUs, can run these.
WIDE = batch_of(2, shape_of("wide", cpus=8.0), number=1)
WIDER = batch_of(1, shape_of("wider", cpus=3.0), number=2)


def attach(bench: Bench, job: bytes = JOB.id) -> Wire:
    """A driver that listens to the agent."""
    wire = Wire()
    protocol = bench.agent.connection_factory()
    protocol.connection_made(wire)
    protocol.data_received(m.pack(m.Attach(job, want_logs=False)))
    return wire


def beat(bench: Bench, agent: str, python: str = "", **total: float) -> None:
    """Let an agent that has this much give a sign of life."""
    units = {name: to_units(amount) for name, amount in total.items()}
    heartbeat = Heartbeat(agent, 1, "host", 1, "", units, units, python=python)
    bench.store.put(layout.agent(agent), seal(heartbeat))


async def ring(bench: Bench, batch: Batch, klass: str | None = None) -> None:
    """Let the agent hear of a batch, and look into it if it wants to."""
    bench.publish(batch)
    name = name_of(batch, klass)
    bench.store.put(claim_of(name.stem, 0), seal(batch))
    bench.discovery.heard((name,))
    await asyncio.sleep(PATIENCE_S + 1)


def told(wire: Wire) -> list[m.Unschedulable]:
    return [message for message in wire.messages if isinstance(message, m.Unschedulable)]


@pytest.fixture
def alone(bench: Bench) -> Bench:
    """An agent of two CPUs that knows itself."""
    beat(bench, bench.agent.id, CPU=2)
    return bench


async def test_a_batch_that_nobody_can_run_is_told_with_what_there_is(alone: Bench) -> None:
    wire = attach(alone)
    await ring(alone, WIDE)
    asked, offered = {"CPU": 8 * UNIT}, {"CPU": 2 * UNIT}
    assert told(wire) == [m.Unschedulable("wide", asked, offered)]


async def test_so_is_one_that_only_its_exact_demand_shows_to_fit_nobody(make_bench: Make) -> None:
    bench = make_bench(cpus=2.5)
    beat(bench, bench.agent.id, CPU=2.5)
    wire = attach(bench)
    await ring(bench, WIDER)
    assert [message.name for message in told(wire)] == ["wider"]


async def test_an_agent_that_just_starts_gets_time_to_show_up(alone: Bench) -> None:
    wire = attach(alone)
    alone.publish(WIDE)
    alone.discovery.heard((name_of(WIDE),))
    await asyncio.sleep(PATIENCE_S / 2)
    beat(alone, "other", CPU=8)
    await asyncio.sleep(PATIENCE_S)
    assert told(wire) == []


@pytest.mark.parametrize("batch", [WIDE, WIDER])
async def test_a_batch_that_another_agent_can_run_is_nobodys_business(
    alone: Bench, batch: Batch
) -> None:
    wire = attach(alone)
    beat(alone, "other", CPU=8)
    await ring(alone, batch)
    assert told(wire) == []


async def test_of_several_agents_the_one_that_comes_nearest_is_told(alone: Bench) -> None:
    wire = attach(alone)
    beat(alone, "large", CPU=64)
    beat(alone, "other", CPU=4, GPU=1)
    shape = msgspec.structs.replace(shape_of(), demand={"CPU": UNIT, "GPU": 2 * UNIT, "tea": UNIT})
    beat(alone, "nearest", CPU=1, GPU=2)
    await ring(alone, batch_of(1, shape))
    assert [message.largest for message in told(wire)] == [{"CPU": UNIT, "GPU": 2 * UNIT}]


async def test_only_what_fits_nobody_is_told_of_a_batch_that_mixes_demands(alone: Bench) -> None:
    wire = attach(alone)
    shapes = (*WIDER.shapes, shape_of("fits", cpus=2.0))
    await ring(alone, msgspec.structs.replace(WIDER, shapes=shapes))
    assert [message.name for message in told(wire)] == ["wider"]


async def test_a_batch_is_told_once_however_often_it_is_met(alone: Bench) -> None:
    wire = attach(alone)
    await ring(alone, WIDE)
    for _ in range(3):
        await alone.discovery.scan()
        await asyncio.sleep(PATIENCE_S + 1)
    assert len(told(wire)) == 1


async def test_a_batch_is_looked_into_again_when_who_could_run_it_has_gone(alone: Bench) -> None:
    wire = attach(alone)
    beat(alone, "other", CPU=8)
    await ring(alone, WIDE)
    assert told(wire) == []
    alone.store.perform(Delete((layout.agent("other"),)))
    await alone.discovery.scan()
    await asyncio.sleep(PATIENCE_S + 1)
    assert len(told(wire)) == 1


async def test_a_batch_for_another_python_is_told_with_its_version(alone: Bench) -> None:
    wire = attach(alone)
    beat(alone, alone.agent.id, python_tag(), CPU=2)
    await ring(alone, batch_of(1), class_of({"CPU": UNIT}, "py39"))
    assert [message.python for message in told(wire)] == ["py39"]


async def test_an_agent_of_that_python_runs_it(alone: Bench) -> None:
    wire = attach(alone)
    beat(alone, "other", "py39", CPU=2)
    await ring(alone, batch_of(1), class_of({"CPU": UNIT}, "py39"))
    assert told(wire) == []


async def test_a_batch_that_has_gone_meanwhile_is_forgotten(alone: Bench) -> None:
    wire = attach(alone)
    alone.publish(WIDE)
    alone.write(WIDE, done(0), done(1))
    alone.discovery.heard((name_of(WIDE),))
    alone.store.perform(Delete((claim_of(name_of(WIDE).stem, 0),)))
    await asyncio.sleep(PATIENCE_S + 1)
    assert told(wire) == []


async def test_without_a_driver_that_listens_nothing_is_read(alone: Bench) -> None:
    attach(alone, job=b"another   ")
    before = alone.ledger.as_dict()
    alone.discovery.heard((name_of(WIDE),))
    await asyncio.sleep(PATIENCE_S + 1)
    assert alone.ledger.as_dict() == before


def test_nearest_is_who_satisfies_most_of_a_demand_then_who_is_large() -> None:
    small, large = {"CPU": 1, "GPU": 1}, {"CPU": 9}
    assert nearest({"CPU": 1, "GPU": 1}, [large, small]) == small
    assert nearest({"CPU": 1, "tea": 1}, [small, large]) == large
    assert nearest({"CPU": 1}, []) == {}
