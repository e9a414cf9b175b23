"""Agents on machines of their own: in namespaces where nothing of the driver's is to be seen.

They share the kernel, the network and the installed packages with the tests; `/tmp`, `/var/tmp`,
shared memory and whatever else is named are empty there, and the host has another name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.programs import ROOT

#: What every machine has for itself.
_OWN = ("/dev/shm", "/tmp", "/var/tmp")
HOST = "elsewhere"
_UNSHARE = ("unshare", "--mount", "--uts")
_ENTER = f"mount --make-rprivate / && hostname {HOST}"
#: The folders to hide come first, up to a word of its own, then the command.
_BEGIN = f"""
set -e
{_ENTER}
while [ "$1" != run ]; do [ ! -d "$1" ] || mount -t tmpfs tmpfs "$1"; shift; done
shift
mkdir -p /tmp/run
mkdir /tmp/home
cd /tmp/home
exec "$@"
"""


def why_no_machines() -> str:
    """Why no agent can be started in a namespace of its own; empty when one can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "mount namespaces need Linux and unshare"
    trial = [*_UNSHARE, "sh", "-c", f"{_ENTER} && mount -t tmpfs tmpfs /var/tmp"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return f"this user may not make mount namespaces: {done.stderr.strip()}"


@contextmanager
def machine(address: str, log: Path, hidden: Path, agents: int = 1) -> Iterator[Path]:
    """A machine with so many agents of two CPUs that serve `address`; they write to `log`.

    Yields the root of its files, as seen from here.
    """
    command = [sys.executable, "-m", "cloudray", "worker", address, "--num-cpus", "2"]
    started: list[subprocess.Popen[bytes]] = []
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "XDG_", "TMP", "PYTHONPATH"))
    }
    env = inherited | {
        "PYTHONPATH": str(ROOT),
        "HOME": "/tmp/home",
        "XDG_RUNTIME_DIR": "/tmp/run",
    }

    def start(words: list[str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*words, *command], env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        started.append(process)
        return process

    try:
        first = start([*_UNSHARE, "sh", "-c", _BEGIN, "sh", *_OWN, str(hidden), "run"])
        root = Path(f"/proc/{first.pid}/root")
        while not (root / "tmp/home").is_dir() and first.poll() is None:
            time.sleep(0.01)
        for _ in range(agents - 1):
            enter = ["nsenter", f"--target={first.pid}", "--mount", "--uts"]
            start([*enter, "sh", "-c", 'cd /tmp/home && exec "$@"', "sh"])
        yield root
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                assert process.wait(60) == 0, log.read_text()
            finally:
                process.kill()
                process.wait()
