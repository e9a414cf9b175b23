"""The agent as a process: its event loop, its socket, and the signals it obeys."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from cloudray import platform
from cloudray.agent.cache import CacheFolders
from cloudray.agent.core import Agent
from cloudray.agent.spec import AgentSpec
from cloudray.agent.starters import FreshStarter, Starter, ZygoteStarter
from cloudray.executor.zygote import Output, StartRequest
from cloudray.folders import PrivateFolder, remove, sweep
from cloudray.protocol.demand import Demand, to_units
from cloudray.protocol.joining import join
from cloudray.store import (
    Counting,
    Ledger,
    RecordError,
    Reliable,
    StoreError,
    drive,
    open_store,
)

#: Of the machine's memory, what tasks may have unless the user says otherwise; as Ray does.
_MEMORY_SHARE = 0.8


class Place(msgspec.Struct, frozen=True):
    """What the agent was given before it loaded the rest of itself."""

    folder: Path
    spool: Path
    listener: socket.socket
    #: set where the folder is the agent's own, not its driver's
    private: PrivateFolder | None
    #: the zygote's socket, and the executor that it has begun already
    ahead: tuple[socket.socket, StartRequest, Output] | None


def run(spec: AgentSpec, place: Place) -> int:
    """Serve until told to stop; returns the exit code."""
    logging.basicConfig(
        level=spec.logging_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        import uvloop  # where it exists

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            runner.run(_serve(spec, place))
    except (StoreError, RecordError, ValueError) as error:
        sys.stderr.write(f"cloudray.agent: {error}\n")
        return 1
    finally:
        if place.private is not None:
            place.private.remove()
            sweep(platform.socket_folder(), "agent-")
        else:
            # An embedded cluster's folders go as a whole, whoever of driver and agent is last.
            for folder in spec.folders:
                remove(Path(folder))
    return 0


async def _serve(spec: AgentSpec, place: Place) -> None:
    ledger = Ledger()
    cache = CacheFolders()
    store = Reliable(Counting(open_store(spec.address), ledger))
    settings = drive(store, join(spec.address))
    # Where large values wait for being stored that the spool has no room for.
    spill: PrivateFolder | None = None
    if store.room is None:
        with suppress(OSError):
            spill = PrivateFolder(platform.spill_folder(), f"cloudray-agent-{os.getuid()}-")
    socket_path = place.listener.getsockname()
    starter: Starter = FreshStarter(socket_path)
    if place.ahead is not None:
        starter = ZygoteStarter(place.ahead[0], FreshStarter(socket_path))
    agent = Agent(
        store,
        settings,
        total_of(spec.num_cpus, spec.num_gpus, spec.memory, spec.resources),
        socket_path,
        place.spool,
        ledger,
        starter,
        clock=platform.monotonic_s,
        rng=random.Random(),
        dead=spec.dead,
        shelves=cache.shelves(spec.cache_memory, spec.cache_disk),
        spill=None if spill is None else spill.path,
    )
    if place.ahead is not None and isinstance(starter, ZygoteStarter):
        _, request, output = place.ahead
        starter.expect(request.token, agent.workers.adopt(request, output))
    stop = asyncio.Event()
    _obey_signals(agent, stop, spec.drain_timeout_s)
    if spec.lifeline_fd is not None:
        _end_with_driver(spec.lifeline_fd, stop)
    server = await asyncio.get_running_loop().create_unix_server(
        agent.connection_factory, sock=place.listener
    )
    # What is loaded stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # What comes and goes with a task is mostly free of cycles, and this is the hot path.
    gc.set_threshold(20_000, 20, 20)
    try:
        await agent.run(stop)
    finally:
        cache.remove()
        if spill is not None:
            spill.remove()
        server.close()
        if isinstance(starter, ZygoteStarter):
            starter.close()


def _end_with_driver(lifeline: int, stop: asyncio.Event) -> None:
    """The driver holds the other end of this pipe: when it is gone, however it went, so are we."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        # At its end a pipe stays readable, and the loop would turn and turn.
        loop.remove_reader(lifeline)
        stop.set()

    loop.add_reader(lifeline, gone)


def _obey_signals(agent: Agent, stop: asyncio.Event, drain_timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        await agent.drain(drain_timeout_s)
        stop.set()

    def on_term() -> None:
        if drains:
            stop.set()
        else:
            drains.append(loop.create_task(drain()))

    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, on_term)


def total_of(
    num_cpus: float | None,
    num_gpus: float,
    memory: float | None,
    resources: dict[str, float],
) -> Demand:
    """What a machine offers, in ten-thousandths of a unit."""
    if memory is None:
        memory = int(platform.memory_bytes() * _MEMORY_SHARE)
    total = {
        "CPU": to_units(platform.cpu_count() if num_cpus is None else num_cpus),
        "memory": to_units(memory),
    }
    if num_gpus:
        total["GPU"] = to_units(num_gpus)
    return total | {name: to_units(amount) for name, amount in resources.items()}
