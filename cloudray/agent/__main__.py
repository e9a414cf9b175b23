"""`python -m cloudray.agent ADDRESS`: run an agent until it is told to stop.

SIGTERM drains: nothing new is claimed, what has not started is given back, and what runs may
finish. A second SIGTERM, or the end of the driver of an embedded cluster, stops at once.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

from cloudray import platform
from cloudray.executor.zygote import fork_zygote, request_start
from cloudray.folders import PrivateFolder


def main() -> int:
    """Parse the command line, fork the zygote while little is loaded, and serve."""
    arguments = _parser().parse_args()
    private = None
    if arguments.folder is None:
        private = PrivateFolder(platform.socket_folder(), "agent-")
    folder = private.path if private else arguments.folder
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    listener = _listen(arguments.listen_fd, folder)
    ahead = None
    if platform.forks_cleanly():
        request, output = request_start(spool, {})
        control = fork_zygote(listener.getsockname(), request, output.write)
        ahead = (control, request, output)
    from cloudray.agent.serve import Place, run

    return run(arguments, Place(folder, spool, listener, private, ahead))


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


def _listen(descriptor: int | None, folder: Path) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "agent.sock"))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
