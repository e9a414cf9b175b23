"""The agent as a process: its event loop, its socket, and the signals it obeys."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from cloudray import platform
from cloudray.agent.cache import CacheFolders
from cloudray.agent.core import Agent
from cloudray.agent.ending import Ending
from cloudray.agent.outages import Outages
from cloudray.agent.packages import Packages
from cloudray.agent.spec import AgentSpec
from cloudray.agent.starters import FreshStarter, Starter, ZygoteStarter
from cloudray.durations import show_duration
from cloudray.executor.zygote import Output, StartRequest
from cloudray.folders import PrivateFolder, remove, sweep
from cloudray.keyring import ClusterKey, read_pipe
from cloudray.protocol.demand import Demand, amounts, to_units
from cloudray.protocol.joining import join, look
from cloudray.protocol.records import Cluster
from cloudray.store import (
    Counting,
    Ledger,
    RecordError,
    Reliable,
    Store,
    StoreError,
    drive_async,
    open_store,
)
from cloudray.store.opening import sign
from cloudray.store.probe import probe_async

#: Of the machine's memory, what tasks may have unless the user says otherwise; as Ray does.
_MEMORY_SHARE = 0.8
#: How often is looked whether the store swallows requests.
_SILENCE_LOOK_S = 5.0


class Place(msgspec.Struct, frozen=True):
    """What the agent was given before it loaded the rest of itself."""

    folder: Path
    spool: Path
    listener: socket.socket
    #: set where the folder is the agent's own, not its driver's
    private: PrivateFolder | None
    #: the zygote's socket, and the executor that it has begun already
    ahead: tuple[socket.socket, StartRequest, Output] | None


class WrongAddressError(Exception):
    """The address names no store, and will not when it is tried again."""


def run(spec: AgentSpec, place: Place) -> int:
    """Serve until told to stop; returns the exit code: 2 for an address that is none."""
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
    except (WrongAddressError, StoreError, RecordError) as error:
        sys.stderr.write(f"{spec.name}: {error}\n")
        return 2 if isinstance(error, WrongAddressError) else 1
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
    say = _speaker(spec.speaks_as)
    ending = Ending(spec.drain_timeout_s, say)
    ending.obey_signals()
    if spec.lifeline_fd is not None:
        ending.end_with(spec.lifeline_fd)
    key = None if spec.key_fd is None else read_pipe(spec.key_fd)
    ledger = Ledger()
    try:
        raw: Store = Counting(open_store(spec.address), ledger)
    except ValueError as error:
        raise WrongAddressError(str(error)) from error
    outages = None
    # What answers within microseconds is on this machine, and goes when it goes.
    if not raw.inline:
        raw = outages = Outages(raw, say)
    store = Reliable(sign(raw, key, private=bool(spec.folders)))
    watching = None if outages is None else asyncio.create_task(_watch(outages))
    try:
        settings = await _join(store, spec, key, ending)
        if settings is not None:
            if outages is not None:
                outages.joined = True
            await _work(spec, place, store, settings, ledger, ending, say)
    finally:
        if watching is not None:
            watching.cancel()


async def _join(
    store: Reliable, spec: AgentSpec, key: ClusterKey | None, ending: Ending
) -> Cluster | None:
    """Join the cluster, however long its store cannot be reached; None when told to stop."""
    joining = asyncio.ensure_future(_look_and_join(store, spec, key))
    stopping = asyncio.ensure_future(ending.stop.wait())
    await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if joining.done():
        return joining.result()
    joining.cancel()
    return None


async def _look_and_join(store: Reliable, spec: AgentSpec, key: ClusterKey | None) -> Cluster:
    if not store.inline:
        # Nothing is written before it is known that this is a cluster, or nothing yet.
        found = await drive_async(store, look(spec.address, key))
        if found is not None and found.probed:
            return found
        await probe_async(store)
    return await drive_async(
        store, join(spec.address, spec.timing, key=key, probed=not store.inline)
    )


async def _work(
    spec: AgentSpec,
    place: Place,
    store: Reliable,
    settings: Cluster,
    ledger: Ledger,
    ending: Ending,
    say: Callable[[str], None],
) -> None:
    cache = CacheFolders()
    # Where large values wait for being stored that the spool has no room for.
    spill: PrivateFolder | None = None
    if store.room is None:
        with suppress(OSError):
            spill = PrivateFolder(platform.spill_folder(), f"cloudray-agent-{os.getuid()}-")
    socket_path = place.listener.getsockname()
    starter: Starter = FreshStarter(socket_path)
    if place.ahead is not None:
        starter = ZygoteStarter(place.ahead[0], FreshStarter(socket_path))
    total = total_of(spec.num_cpus, spec.num_gpus, spec.memory, spec.resources)
    # An embedded cluster leaves nothing behind.
    code = Path(spec.folders[-1]) / "code" if spec.folders else platform.code_folder()
    packages = Packages(store, code, int(spec.code_cache), cache.scratch)
    agent = Agent(
        store,
        settings,
        total,
        socket_path,
        place.spool,
        ledger,
        starter,
        clock=platform.monotonic_s,
        rng=random.Random(),
        dead=spec.dead,
        shelves=cache.shelves(spec.cache_memory, spec.cache_disk),
        spill=None if spill is None else spill.path,
        labels=spec.labels,
        packages=packages,
    )
    ending.agent = agent
    if place.ahead is not None and isinstance(starter, ZygoteStarter):
        _, request, output = place.ahead
        starter.expect(request.token, agent.workers.adopt(request, output))
    server = await asyncio.get_running_loop().create_unix_server(
        agent.connection_factory, sock=place.listener
    )
    # What is loaded stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # What comes and goes with a task is mostly free of cycles, and this is the hot path.
    gc.set_threshold(20_000, 20, 20)
    leaving = None
    if spec.idle_timeout_s:
        leaving = asyncio.create_task(ending.when_idle(agent, spec.idle_timeout_s))
    began_s = time.monotonic()
    serves = f"serves {spec.address} with {amounts(total)}"
    try:
        await agent.run(
            ending.stop, lambda: say(f"{serves} (agent {agent.id}, process {os.getpid()})")
        )
        say(_summary(agent, ledger, time.monotonic() - began_s))
    finally:
        if leaving is not None:
            leaving.cancel()
        packages.close()
        cache.remove()
        if spill is not None:
            spill.remove()
        server.close()
        if isinstance(starter, ZygoteStarter):
            starter.close()


async def _watch(outages: Outages) -> None:
    while True:
        await asyncio.sleep(_SILENCE_LOOK_S)
        outages.look()


def _speaker(name: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        if name:
            # Whoever read it may be gone.
            with suppress(OSError, ValueError):
                sys.stderr.write(f"{name}: {text}\n")
                sys.stderr.flush()

    return say


def _summary(agent: Agent, ledger: Ledger, served_s: float) -> str:
    def several(number: int, noun: str) -> str:
        return f"{number:,} {noun}{'' if number == 1 else 's'}"

    return (
        f"left after {show_duration(served_s)}: {several(agent.calls_run, 'task')} run, "
        f"{agent.tasks_given_back:,} given back, with "
        f"{several(ledger.priced_requests, 'priced request')}"
    )


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
