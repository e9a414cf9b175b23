"""`python -m cloudray.agent ADDRESS`: run an agent until it is told to stop.

SIGTERM drains: nothing new is claimed, what has not started is given back, and what runs may
finish. A second SIGTERM, or the end of the driver of an embedded cluster, stops at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import signal
import socket
import sys
from pathlib import Path

from cloudray import platform
from cloudray.agent.core import Agent
from cloudray.folders import PrivateFolder, sweep
from cloudray.protocol.joining import join
from cloudray.protocol.demand import Demand, to_units
from cloudray.store import Counting, Ledger, Reliable, StoreError, drive, open_store

_log = logging.getLogger("cloudray.agent")


def main() -> int:
    """Parse the command line and run."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=arguments.logging_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        import uvloop  # noqa: PLC0415 - where it exists

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            runner.run(_run(arguments))
    except (StoreError, ValueError) as error:
        print(f"cloudray.agent: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cloudray.agent", description=__doc__)
    parser.add_argument("address", help="URL of the cluster, e.g. file:///shared/cluster")
    parser.add_argument("--num-cpus", type=float, default=None, help="default: all there are")
    parser.add_argument("--num-gpus", type=float, default=0)
    parser.add_argument("--memory", type=float, default=None, help="bytes; default: 80%% of all")
    parser.add_argument("--resources", type=json.loads, default={}, help='JSON: {"tag": 2}')
    parser.add_argument("--drain-timeout", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--logging-level", default="WARNING")
    internal = parser.add_argument_group("used by embedded clusters")
    internal.add_argument("--listen-fd", type=int, default=None)
    internal.add_argument("--lifeline-fd", type=int, default=None)
    internal.add_argument("--folder", type=Path, default=None)
    return parser


def total_of(
    num_cpus: float | None,
    num_gpus: float,
    memory: float | None,
    resources: dict[str, float],
) -> Demand:
    """What a machine offers, in ten-thousandths of a unit."""
    total = {
        "CPU": to_units(platform.cpu_count() if num_cpus is None else num_cpus),
        "memory": to_units(int(platform.memory_bytes() * 0.8) if memory is None else memory),
    }
    if num_gpus:
        total["GPU"] = to_units(num_gpus)
    return total | {name: to_units(amount) for name, amount in resources.items()}


async def _run(arguments: argparse.Namespace) -> None:
    ledger = Ledger()
    store = Reliable(Counting(open_store(arguments.address), ledger))
    settings = drive(store, join(arguments.address))
    private = None
    if arguments.folder is None:
        private = PrivateFolder(platform.socket_folder(), "agent-")
    folder = private.path if private else arguments.folder
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    listener, socket_path = _listen(arguments.listen_fd, folder)
    total = total_of(
        arguments.num_cpus, arguments.num_gpus, arguments.memory, arguments.resources
    )
    agent = Agent(
        store,
        settings,
        total,
        socket_path,
        spool,
        ledger,
        clock=platform.monotonic_s,
        rng=random.Random(),  # noqa: S311 - jitter and names, no secret
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        await agent.drain(arguments.drain_timeout)
        stop.set()

    def on_term() -> None:
        if drains:
            stop.set()
        else:
            drains.append(loop.create_task(drain()))

    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, on_term)
    if arguments.lifeline_fd is not None:
        # The driver holds the other end: when it is gone, however it went, so are we.
        loop.add_reader(arguments.lifeline_fd, stop.set)
    server = await loop.create_unix_server(agent.connection_factory, sock=listener)
    try:
        await agent.run(stop)
    finally:
        server.close()
        if private is not None:
            private.remove()
            sweep(platform.socket_folder(), "agent-")
        else:
            # An embedded cluster's folder goes as a whole, whoever of driver and agent is last.
            shutil.rmtree(folder, ignore_errors=True)


def _listen(descriptor: int | None, folder: Path) -> tuple[socket.socket, str]:
    if descriptor is not None:
        listener = socket.socket(fileno=descriptor)
        return listener, listener.getsockname()
    path = str(folder / "agent.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(128)
    return listener, path


if __name__ == "__main__":
    sys.exit(main())
