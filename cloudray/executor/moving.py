"""Where an executor finds itself before its first task: its working directory and `sys.path`."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from importlib import invalidate_caches
from pathlib import Path

from cloudray.protocol import messages as m


def move_in(setup: m.Setup) -> None:
    """Go where the job's tasks run, and look for modules where its driver does.

    What came along is found first, then what the driver finds on the same machine, then what is
    installed here. On another machine a folder of the driver's path that happens to be there too
    comes last: it may belong to another Python.
    """
    job = setup.job
    own = [entry for entry in setup.path if entry not in sys.path]
    if job.host == socket.gethostname():
        sys.path[:0] = [*own, *_new(job.sys_path, own)]
    else:
        sys.path[:0] = own
        sys.path += [entry for entry in _new(job.sys_path) if os.path.isdir(entry)]  # noqa: PTH112 - texts
    if own:
        # A blank executor may have looked into these folders' parents already.
        invalidate_caches()
    if setup.working_dir:
        os.chdir(setup.working_dir)
    elif Path(job.cwd).is_dir():
        os.chdir(job.cwd)
        if job.cwd not in sys.path:
            # As Ray has it; last, so that nothing there hides anything.
            sys.path.append(job.cwd)


def _new(entries: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Those that are not on `sys.path` yet, each of them once."""
    seen = {*sys.path, *known}
    return [entry for entry in dict.fromkeys(entries) if entry not in seen]
