"""A small agent: its only work is to fork a zygote, and to be its parent.

`python -m tests.unit.executor.forking SOCKET SPOOL CONTROL OUT ERR [MODULE ...]` hands the
zygote's socket over through the descriptor CONTROL, says who everybody is, and lives until its
standard input ends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from cloudray.executor.zygote import fork_zygote, request_start


def main() -> None:
    socket_path, spool, control, *modules = sys.argv[1:]
    request, output = request_start(Path(spool), {})
    # An executor must not inherit this: whoever waits for its end would wait for ever.
    os.open(Path(spool) / "kept-by-the-agent", os.O_CREAT | os.O_RDWR)
    pid, zygote = fork_zygote(socket_path, request, output.write, tuple(modules))
    with socket.socket(fileno=int(control)) as channel:
        said = {"zygote": pid, "token": request.token}
        descriptors = [zygote.fileno(), *output.read]
        socket.send_fds(channel, [json.dumps(said).encode()], descriptors)
        zygote.close()
        sys.stdin.read()


if __name__ == "__main__":
    main()
