"""An embedded cluster: a folder, an agent, and the promise that both go with the driver."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cloudray import ids, platform
from cloudray.protocol.joining import join
from cloudray.settings import EMBEDDED
from cloudray.store import Reliable, drive, open_store, probe

_PREFIX = "cloudray-"
#: How long an agent gets to clean up after itself.
_PATIENCE_S = 5.0


class AgentOptions:
    """What the agent on this machine offers; None means what there is."""

    def __init__(
        self,
        num_cpus: float | None,
        num_gpus: float | None,
        memory: float | None,
        resources: Mapping[str, float] | None,
    ) -> None:
        self.arguments: list[str] = []
        if num_cpus is not None:
            self.arguments += ["--num-cpus", str(num_cpus)]
        if num_gpus:
            self.arguments += ["--num-gpus", str(num_gpus)]
        if memory is not None:
            self.arguments += ["--memory", str(memory)]
        if resources:
            import json  # noqa: PLC0415 - rarely needed

            self.arguments += ["--resources", json.dumps(dict(resources))]


class EmbeddedCluster:
    """A cluster on this machine that lives as long as its driver.

    The agent holds one end of a pipe whose other end is only in this process: however the driver
    ends, the agent notices, ends its executors, and removes the folder.
    """

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        base = platform.memory_folder()
        _sweep(base)
        name = f"{_PREFIX}{os.getuid()}-{os.getpid()}-{ids.to_text(ids.new_timed_id())}"
        self.folder = base / name
        self.folder.mkdir(mode=0o700)
        self._lock = _lock_of(self.folder)
        (self.folder / "store").mkdir()
        self.address = f"file://{self.folder}/store?durable=false"
        self._owner_pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        try:
            store = Reliable(open_store(self.address))
            probe(store)
            drive(store, join(self.address, EMBEDDED))
            self.socket_path = self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> str:
        path = str(self.folder / f"{os.urandom(4).hex()}.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        # Listening before the agent runs: whoever connects early waits in the backlog.
        listener.listen(128)
        read_end, write_end = os.pipe()
        log = (self.folder / "agent.log").open("ab")
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    sys.executable,
                    "-m",
                    "cloudray.agent",
                    self.address,
                    "--listen-fd",
                    str(listener.fileno()),
                    "--lifeline-fd",
                    str(read_end),
                    "--folder",
                    str(self.folder),
                    *self._options.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(), read_end, self._lock),
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": _python_path()},
            )
        finally:
            listener.close()
            os.close(read_end)
            log.close()
        self._lifeline = write_end
        return path

    def alive(self) -> bool:
        """Whether the agent runs."""
        return self._process is not None and self._process.poll() is None

    def restart(self) -> str:
        """Start another agent after one has died; returns the address of its socket."""
        if self._process is not None:
            # It hung up, so it is of no use any more, even if it has not quite ended.
            self._process.kill()
            self._process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self.socket_path = self._start()
        return self.socket_path

    def log(self) -> str:
        """What the agent had to say."""
        try:
            return (self.folder / "agent.log").read_text(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """End the agent, and with it its executors, and remove the folder."""
        if os.getpid() != self._owner_pid:
            return
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _python_path() -> str:
    """A PYTHONPATH with which a child finds this very package."""
    ours = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return f"{ours}{os.pathsep}{known}" if known else ours


def _lock_of(folder: Path) -> int:
    """A lock that driver and agent hold as long as either lives."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _sweep(base: Path) -> None:
    """Remove what clusters left whose driver and agent were both killed."""
    for folder in base.glob(f"{_PREFIX}{os.getuid()}-*"):
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
