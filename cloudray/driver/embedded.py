"""An embedded cluster: a folder, an agent, and the promise that both go with the driver."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cloudray import platform
from cloudray.agent.spec import AgentSpec
from cloudray.folders import PrivateFolder
from cloudray.protocol.joining import join
from cloudray.settings import EMBEDDED
from cloudray.store import Reliable, drive, open_store

#: How long an agent gets to clean up after itself.
_PATIENCE_S = 5.0


class Offer(msgspec.Struct, frozen=True):
    """What the agent on this machine offers; None means what there is."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    #: bytes
    memory: float | None = None
    resources: Mapping[str, float] | None = None
    #: modules that tasks are likely to use
    preload: tuple[str, ...] = ()


class EmbeddedCluster:
    """A cluster on this machine that lives as long as its driver.

    The agent holds one end of a pipe whose other end is only in this process: however the driver
    ends, the agent notices, ends its executors, and removes the folder.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._private = PrivateFolder(platform.memory_folder(), f"cloudray-{os.getuid()}-")
        self.folder = self._private.path
        (self.folder / "store").mkdir()
        self.address = f"file://{self.folder}/store?durable=false"
        self._owner_pid = os.getpid()
        self._dead: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        try:
            # The agent is on its way before anything else is done or even loaded.
            drive(Reliable(open_store(self.address)), join(self.address, EMBEDDED))
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
        offer = self._offer
        spec = msgspec.json.encode(
            AgentSpec(
                self.address,
                offer.num_cpus,
                offer.num_gpus or 0.0,
                offer.memory,
                dict(offer.resources or {}),
                dead=tuple(self._dead),
                preload=offer.preload,
                listen_fd=listener.fileno(),
                lifeline_fd=read_end,
                folder=str(self.folder),
            )
        )
        log = (self.folder / "agent.log").open("ab")
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                # -P: files in the working directory must not hide modules that the agent needs.
                [sys.executable, "-P", "-m", "cloudray.agent", "--spec", spec],
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

    def restart(self, dead: str) -> str:
        """Start another agent after `dead` has died; returns the address of its socket."""
        self._dead.append(dead)
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
