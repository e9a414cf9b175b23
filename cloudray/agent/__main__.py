"""`python -m cloudray.agent ADDRESS`: run an agent until it is told to stop.

SIGTERM drains: nothing new is claimed, what has not started is given back, and what runs may
finish. A second SIGTERM, or the end of the driver of an embedded cluster, stops at once.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec

# Loaded before the fork, so that agent and executors share it in memory.
import cloudray.exceptions
import cloudray.protocol.buffer
import cloudray.protocol.messages
import cloudray.values.outcomes  # noqa: F401
from cloudray import platform
from cloudray.agent.spec import AgentSpec
from cloudray.executor.zygote import fork_zygote, request_start
from cloudray.folders import PrivateFolder

#: More than any machine has of anything.
_TOO_MUCH = 1e15
_CACHE_HELP = "bytes of values from object storage to keep in memory; default: 10%% of it"


def main() -> int:
    """Fork the zygote while little is loaded, then load the rest and serve."""
    if not platform.capabilities.unix:
        print(
            "cloudray.agent: an agent needs Linux, macOS or WSL: install WSL (`wsl --install`) "
            "and start it there",
            file=sys.stderr,
        )
        return 1
    if sys.argv[1:2] == ["--spec"]:
        spec = msgspec.json.decode(sys.argv[2], type=AgentSpec)
    else:
        spec = _parse_command_line()
    # For the executors too, which inherit it: as Ray has it.
    platform.raise_file_limit()
    try:
        private = None if spec.folders else PrivateFolder(platform.socket_folder(), "agent-")
    except OSError as error:
        print(f"cloudray.agent: {error}", file=sys.stderr)
        return 1
    folder = private.path if private else Path(spec.folders[0])
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    listener = _listen(spec.listen_fd, folder)
    ahead, zygote = None, 0
    if platform.forks_cleanly():
        request, output = request_start(spool, {})
        zygote, control = fork_zygote(listener.getsockname(), request, output.write, spec.preload)
        ahead = (control, request, output)
    from cloudray.agent.serve import Place, run

    try:
        return run(spec, Place(folder, spool, listener, private, ahead))
    finally:
        if ahead is not None:
            ahead[0].close()
            os.waitpid(zygote, 0)


def _parse_command_line() -> AgentSpec:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m cloudray.agent", description=__doc__)
    add = parser.add_argument
    add("address", help="URL of the cluster, e.g. file:///shared/cluster")
    add("--num-cpus", type=_quantity, default=None, help="default: all there are")
    add("--num-gpus", type=_quantity, default=0.0)
    add("--memory", type=_quantity, default=None, help="bytes; default: 80%% of all")
    add("--resources", type=_quantities, default={}, help='JSON: {"tag": 2}')
    add("--cache-memory", type=float, default=None, help=_CACHE_HELP)
    add("--cache-disk", type=float, default=10e9, help="... and on disk (default: 10 GB)")
    add("--drain-timeout", type=float, default=30.0, dest="drain_timeout_s", metavar="SECONDS")
    add("--logging-level", default="WARNING")
    return AgentSpec(**vars(parser.parse_args()))


def _quantity(text: str) -> float:
    """A quantity of a resource; argparse tells of the ValueError."""
    amount = float(text)
    if not 0 <= amount < _TOO_MUCH:
        raise ValueError(text)
    return amount


def _quantities(text: str) -> dict[str, float]:
    """Quantities of resources as JSON."""
    import json

    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(text)
    return {name: _quantity(amount) for name, amount in found.items()}


# As argparse has it: "invalid quantity value: '-1'".
_quantity.__name__, _quantities.__name__ = "quantity", "JSON"


def _listen(descriptor: int | None, folder: Path) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    listener = platform.unix_socket()
    listener.bind(str(folder / "agent.sock"))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
