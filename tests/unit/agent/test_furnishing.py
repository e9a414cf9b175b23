"""Executors start when their code is ready; where it cannot be had, their tasks fail alone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cloudray.agent.functions import Kind
from cloudray.agent.packages import Furnished
from cloudray.exceptions import RuntimeEnvSetupError
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch, Code, Package, Verb
from cloudray.values.outcomes import load
from tests.unit.agent.bench import Bench, batch_of, shape_of

CODE = Code(None, (Package("d" * 64, "tea", 1),))


class Furnisher:
    """Makes code ready when the test says so."""

    def __init__(self, bench: Bench) -> None:
        self.ready = asyncio.Event()
        self.error: RuntimeEnvSetupError | None = None
        self.asked: list[Kind] = []
        self.discarded: list[Furnished] = []
        bench.workers.furnish = self.furnish
        bench.workers.discard = self.discard

    async def furnish(self, kind: Kind) -> Furnished:
        self.asked.append(kind)
        await self.ready.wait()
        if self.error is not None:
            raise self.error
        return Furnished("/own", ("/own", "/code"), ("d",))

    async def discard(self, furnished: Furnished) -> None:
        self.discarded.append(furnished)


@pytest.fixture
def furnisher(bench: Bench) -> Furnisher:
    return Furnisher(bench)


def with_code(size: int = 1, *, number: int = 0, code: Code = CODE) -> Batch:
    shape = msgspec.structs.replace(shape_of("brew"), code=code)
    return batch_of(size, shape, number=number)


async def offer(bench: Bench, batch: Batch) -> None:
    """Let the agent take a batch that may be over at once."""
    bench.discovery.offer(bench.publish(batch), 1)
    await bench.settle()


async def test_an_executor_starts_when_its_code_is_ready(
    bench: Bench, furnisher: Furnisher
) -> None:
    await bench.hold(with_code())
    assert bench.executors == []
    assert [kind.code for kind in furnisher.asked] == [CODE]
    furnisher.ready.set()
    await bench.settle()
    (executor,) = bench.executors
    (setup,) = executor.of(m.Setup)
    assert (setup.working_dir, setup.path) == ("/own", ("/own", "/code"))
    assert len(executor.calls) == 1


@pytest.mark.usefixtures("furnisher")
async def test_tasks_without_code_do_not_wait_for_those_with(bench: Bench) -> None:
    await bench.hold(with_code())
    await bench.hold(batch_of(1, number=1))
    (executor,) = bench.executors
    assert executor.of(m.Setup)[0].path == ()
    assert len(executor.calls) == 1


async def test_code_is_made_ready_for_each_executor(bench: Bench, furnisher: Furnisher) -> None:
    furnisher.ready.set()
    await bench.hold(with_code(5))
    assert len(furnisher.asked) == len(bench.executors) == 2


async def test_executors_with_other_code_do_not_stand_in_for_each_other(
    bench: Bench, furnisher: Furnisher
) -> None:
    furnisher.ready.set()
    await bench.hold(with_code())
    other = Code(None, (Package("e" * 64, "cup", 1),))
    await bench.hold(with_code(number=1, code=other))
    assert [len(executor.calls) for executor in bench.executors] == [1, 1]


async def test_what_an_executor_had_goes_when_it_ends(bench: Bench, furnisher: Furnisher) -> None:
    furnisher.ready.set()
    await bench.hold(with_code())
    (executor,) = bench.executors
    executor.end(*executor.calls)
    executor.die()
    await bench.settle()
    assert len(furnisher.discarded) == 1


async def test_tasks_whose_code_cannot_be_had_fail_and_the_agent_goes_on(
    bench: Bench, furnisher: Furnisher
) -> None:
    furnisher.error = RuntimeEnvSetupError("tea is not in the store")
    lost = with_code(5)
    await bench.hold(lost)
    furnisher.ready.set()
    await bench.settle()
    words = bench.said(lost)
    assert sorted((word.index, word.verb) for word in words) == [(n, Verb.FAILED) for n in range(5)]
    for word in words:
        error = load(word.values[0])
        assert isinstance(error, RuntimeEnvSetupError)
        assert "tea is not in the store" in str(error)
    assert bench.executors == []
    await bench.hold(batch_of(1, number=1))
    assert len(bench.executors) == 1


async def test_what_failed_once_may_succeed_later(bench: Bench, furnisher: Furnisher) -> None:
    furnisher.ready.set()
    furnisher.error = RuntimeEnvSetupError("away")
    await offer(bench, with_code())
    furnisher.error = None
    await bench.hold(with_code(number=1))
    await bench.settle()
    assert len(bench.executors) == 1


async def test_an_agent_that_ends_waits_for_no_download(bench: Bench, furnisher: Furnisher) -> None:
    await bench.hold(with_code())
    await bench.workers.stop()
    furnisher.ready.set()
    await bench.settle()
    assert bench.executors == []
    assert sum(bench.workers.starting.values()) == 0


async def test_an_agent_without_a_place_for_code_says_so(bench: Bench) -> None:
    lost = with_code()
    await offer(bench, lost)
    (word,) = bench.said(lost)
    assert "takes no code from elsewhere" in str(load(word.values[0]))
