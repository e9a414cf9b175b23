"""One driver's membership in a cluster, from `init` to `shutdown`."""

from __future__ import annotations

import os
import platform as system
import socket
import sys
import threading
import time
from pathlib import Path

from cloudray import ids
from cloudray.driver.embedded import EmbeddedCluster, Offer
from cloudray.exceptions import RaySystemError
from cloudray.protocol.joining import join
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import Job, seal
from cloudray.store import Counting, Ledger, Put, Reliable, drive, layout, open_store
from cloudray.store.probe import probe

#: How long an agent may take to start on a slow machine.
_START_S = 60.0
#: A job's retention class, in days.
_DAYS = 7
#: An embedded agent is started again at most so often.
_MAX_RESTARTS = 5


class Session:
    """A client, and the embedded cluster if there is one."""

    def __init__(
        self,
        address: str | None,
        offer: Offer,
        *,
        namespace: str,
        log_to_driver: bool,
    ) -> None:
        self.cluster = EmbeddedCluster(offer) if address is None else None
        self.address = self.cluster.address if self.cluster else address or ""
        self._restarts = 0
        self._closing = threading.Lock()
        # Loaded while the agent of an embedded cluster starts.
        from cloudray.driver.client import DriverClient

        try:
            ledger = Ledger()
            store = Reliable(Counting(open_store(self.address), ledger))
            probe(store)
            settings = drive(store, join(self.address))
            job = _describe_job(namespace)
            prefix = ids.batch_prefix(_DAYS, job.id, bytes(ids.ID_BYTES))
            store.perform(Put(layout.meta(prefix), seal(job)))
            self.client = DriverClient(
                store,
                ledger,
                settings,
                job,
                days=_DAYS,
                log_to_driver=log_to_driver,
                on_agent_lost=self._agent_lost,
            )
            self._connect()
        except BaseException:
            if self.cluster is not None:
                self.cluster.close()
            raise

    def close(self) -> None:
        """Leave; an embedded cluster ends with its driver."""
        with self._closing:
            try:
                self.client.close()
            finally:
                if self.cluster is not None:
                    self.cluster.close()
                self.client.store.close()

    def _connect(self) -> None:
        client = self.client
        if self.cluster is None:
            for beat in drive(client.store, heartbeats()):
                peer = client.connect(beat.socket)
                if peer is not None:
                    client.await_greeting(peer, 1.0, lambda: True)
            return
        peer = client.connect(self.cluster.socket_path)
        if peer is None or not client.await_greeting(peer, _START_S, self.cluster.alive):
            said = self.cluster.log()
            self.client.close()
            msg = f"the agent of the embedded cluster did not start; it said:\n{said}"
            raise RaySystemError(msg)

    def _agent_lost(self, address: str, agent: str) -> None:
        """The embedded agent died: another one takes over what it held."""
        cluster = self.cluster
        if cluster is None or address != cluster.socket_path or self._restarts >= _MAX_RESTARTS:
            return
        self._restarts += 1
        self.client.connect(cluster.restart(agent))


def _describe_job(namespace: str) -> Job:
    return Job(
        id=ids.new_timed_id(),
        python=system.python_version(),
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=time.time(),
        sys_path=_import_path(),
        cwd=str(Path.cwd()),
        namespace=namespace,
    )


def _import_path() -> tuple[str, ...]:
    """The driver's `sys.path`, where an empty entry means the working directory."""
    return tuple(str(Path(entry or ".").resolve()) for entry in sys.path if _is_usable(entry))


def _is_usable(entry: str) -> bool:
    return entry == "" or Path(entry).exists()
