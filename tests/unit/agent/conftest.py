from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudray import platform
from cloudray.protocol.records import Cluster
from cloudray.store import MemoryStore, Store
from tests.unit.agent.bench import SETTINGS, Bench, Remote
from tests.unit.agent.virtual import VirtualLoop


@pytest.fixture(autouse=True)
def loop() -> Iterator[VirtualLoop]:
    """The loop that a test written as a coroutine runs on, where waiting takes no time."""
    loop = VirtualLoop()
    yield loop
    loop.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    loop = pyfuncitem.funcargs["loop"]
    assert isinstance(loop, VirtualLoop)
    names = pyfuncitem._fixtureinfo.argnames
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


Make = Callable[..., Bench]


@pytest.fixture
def make_bench(
    loop: VirtualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Make an agent with so many CPUs, whose store answers at once or is far away."""
    made: list[Bench] = []

    def make(
        cpus: float = 2.0,
        *,
        remote: bool = False,
        store: Store | None = None,
        settings: Cluster = SETTINGS,
    ) -> Bench:
        raw = store or (Remote() if remote else MemoryStore())
        bench = Bench(raw, tmp_path, loop, cpus, settings)
        monkeypatch.setattr(os, "killpg", bench.stage.killpg)
        monkeypatch.setattr(platform, "exit_descriptor", bench.stage.exit_descriptor)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Make) -> Bench:
    """An agent with two CPUs whose store answers at once."""
    return make_bench()
