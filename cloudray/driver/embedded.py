"""An embedded cluster: a folder, an agent, and the promise that both go with the driver."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cloudray import platform
from cloudray.folders import PrivateFolder
from cloudray.protocol.joining import join
from cloudray.settings import EMBEDDED
from cloudray.store import Reliable, drive, open_store
from cloudray.store.probe import probe

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
        self._private = PrivateFolder(platform.memory_folder(), f"cloudray-{os.getuid()}-")
        self.folder = self._private.path
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
                pass_fds=(listener.fileno(), read_end, self._private.lock),
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
        self._private.remove()


def _python_path() -> str:
    """A PYTHONPATH with which a child finds this very package."""
    ours = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return f"{ours}{os.pathsep}{known}" if known else ours
