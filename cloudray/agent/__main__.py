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


def main() -> int:
    """Fork the zygote while little is loaded, then load the rest and serve."""
    if sys.argv[1:2] == ["--spec"]:
        spec = msgspec.json.decode(sys.argv[2], type=AgentSpec)
    else:
        spec = _parse_command_line()
    private = None if spec.folder else PrivateFolder(platform.socket_folder(), "agent-")
    folder = private.path if private else Path(spec.folder or "")
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
    import json

    parser = argparse.ArgumentParser(prog="python -m cloudray.agent", description=__doc__)
    add = parser.add_argument
    add("address", help="URL of the cluster, e.g. file:///shared/cluster")
    add("--num-cpus", type=float, default=None, help="default: all there are")
    add("--num-gpus", type=float, default=0.0)
    add("--memory", type=float, default=None, help="bytes; default: 80%% of all")
    add("--resources", type=json.loads, default={}, help='JSON: {"tag": 2}')
    add("--drain-timeout", type=float, default=30.0, dest="drain_timeout_s", metavar="SECONDS")
    add("--logging-level", default="WARNING")
    return AgentSpec(**vars(parser.parse_args()))


def _listen(descriptor: int | None, folder: Path) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "agent.sock"))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
