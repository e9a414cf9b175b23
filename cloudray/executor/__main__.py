"""`python -m cloudray.executor SOCKET TOKEN PROGRESS_FILE`: started by an agent, not by hand."""

from __future__ import annotations

import sys

from cloudray.executor.serve import serve
from cloudray.platform import name_process

if __name__ == "__main__":
    arguments = sys.argv[1:4]
    sys.argv[1:] = []
    name_process("cloudray-exec")
    serve(*arguments)
