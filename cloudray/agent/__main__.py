"""`python -m cloudray.agent --spec JSON`: run an agent until it is told to stop.

Whoever starts it (`cloudray worker`, or the driver of an embedded cluster) has checked all that
the spec says.
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
    if sys.argv[1:2] != ["--spec"]:
        print("cloudray.agent: start a worker with `cloudray worker ADDRESS`", file=sys.stderr)
        return 2
    spec = msgspec.json.decode(sys.argv[2], type=AgentSpec)
    # For the executors too, which inherit it: as Ray has it.
    platform.raise_file_limit()
    try:
        private = None if spec.folders else PrivateFolder(platform.socket_folder(), "agent-")
    except OSError as error:
        print(f"{spec.name}: {error}", file=sys.stderr)
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


def _listen(descriptor: int | None, folder: Path) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    listener = platform.unix_socket()
    listener.bind(str(folder / "agent.sock"))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
