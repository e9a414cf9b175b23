"""An embedded cluster: a folder, an agent, and the promise that both go with the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from cloudray import configuration, platform
from cloudray.agent.spec import AgentSpec
from cloudray.driver.storage import Storage
from cloudray.keyring import new_key, pipe_of, without
from cloudray.protocol.joining import join
from cloudray.store import Reliable, drive, open_cluster
from cloudray.timing import EMBEDDED

#: How long an agent gets to clean up after itself.
_PATIENCE_S = 5.0


class Offer(msgspec.Struct, frozen=True):
    """What the agent on this machine offers; None means what there is."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    #: bytes
    memory: float | None = None
    resources: Mapping[str, float] | None = None
    #: bytes of values that may lie in shared memory
    object_store_memory: int | None = None
    #: where values go that find no room there
    spill_directory: str | None = None
    #: modules that tasks are likely to use
    preload: tuple[str, ...] = ()


class EmbeddedCluster:
    """A cluster on this machine that lives as long as its driver.

    The agent holds one end of a pipe whose other end is only in this process: however the driver
    ends, the agent notices, ends its executors, and removes the folders.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        #: signs what lies there; nowhere but in the memory of driver and agent
        self.key = new_key("this process")
        #: its folders
        self.storage = Storage(offer.object_store_memory, offer.spill_directory)
        self.folder = self.storage.folder
        self.address = self.storage.address
        self._owner_pid = os.getpid()
        self._dead: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        try:
            # The agent is on its way before anything else is done or even loaded.
            times = configuration.current().timing(EMBEDDED)
            store = Reliable(open_cluster(self.address, key=self.key, private=True))
            drive(store, join(self.address, times, ephemeral=True, key=self.key))
            self.socket_path = self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> str:
        path = str(self.folder / f"{os.urandom(4).hex()}.sock")
        with platform.unix_socket() as listener, (self.folder / "agent.log").open("ab") as log:
            listener.bind(path)
            # Listening before the agent runs: whoever connects early waits in the backlog.
            listener.listen(128)
            read_end, write_end = os.pipe()
            # Known here before there is an agent: whatever happens meanwhile, `close` ends it.
            self._lifeline = write_end
            try:
                self._process = self._start_agent(listener.fileno(), read_end, log)
            finally:
                os.close(read_end)
        return path

    def _start_agent(
        self, listen_fd: int, lifeline_fd: int, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        key_fd = pipe_of(self.key)
        try:
            return self._popen(listen_fd, lifeline_fd, key_fd, log)
        finally:
            os.close(key_fd)

    def _popen(
        self, listen_fd: int, lifeline_fd: int, key_fd: int, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
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
                listen_fd=listen_fd,
                lifeline_fd=lifeline_fd,
                key_fd=key_fd,
                folders=self.storage.folders,
            )
        )
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: files in the working directory must not hide modules that the agent needs.
            [sys.executable, "-P", "-m", "cloudray.agent", "--spec", spec],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(listen_fd, lifeline_fd, key_fd, *self.storage.locks),
            start_new_session=True,
            # Tasks inherit it, and the key of another cluster is not theirs.
            env=without(os.environ)
            | {
                "PYTHONPATH": _python_path(),
                "CLOUDRAY_TRACEBACK": configuration.current().traceback,
            },
        )

    def alive(self) -> bool:
        """Whether the agent runs."""
        return self._process is not None and self._process.poll() is None

    def restart(self, dead: str) -> str:
        """Start another agent after `dead` has died; returns the address of its socket.

        Who `dead` was is not known ("") if it died before it could say so.
        """
        if dead:
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

    def forget(self) -> None:
        """In a forked child: let go of what ends the cluster, which is its parent's."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self.storage.forget()

    def close(self) -> None:
        """End the agent, and with it its executors, and remove the folders."""
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
        self.storage.remove()


def _python_path() -> str:
    """A PYTHONPATH with which a child finds this very package."""
    ours = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return f"{ours}{os.pathsep}{known}" if known else ours
