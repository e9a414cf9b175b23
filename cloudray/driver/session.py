"""One driver's membership in a cluster, from `init` to `shutdown`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cloudray import configuration, ids, platform
from cloudray.driver import notices
from cloudray.driver.describing import Counts
from cloudray.driver.embedded import EmbeddedCluster, Offer
from cloudray.exceptions import ObjectStoreFullError, RaySystemError
from cloudray.interrupts import Shield
from cloudray.protocol.joining import join, look
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import Job, seal
from cloudray.store import Counting, Ledger, Put, Reliable, StoreError, drive, layout, open_store
from cloudray.store.probe import probe
from cloudray.timing import timing_for

if TYPE_CHECKING:
    from cloudray.driver.client import DriverClient

#: How long an agent may take to start on a slow machine.
_START_S = 60.0
#: A cluster that cannot be reached for so long is not joined: its address may be wrong.
REACH_S = 15.0
#: A job's retention class, in days.
_DAYS = 7
#: An embedded agent is started again at most so often, unless it lived for long each time.
_MAX_RESTARTS = 5
_STEADY_S = 60.0
_NO_EMBEDDING = (
    "A cluster on this machine needs Linux, macOS or WSL: install WSL (`wsl --install`) and run "
    'this program there, or join a cluster in a bucket, with cloudray.init("s3://bucket/prefix").'
)


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
        if address is None and not platform.capabilities.unix:
            raise RuntimeError(_NO_EMBEDDING)
        self._restarts = 0
        self._restarted_s = time.monotonic()
        self._closing = threading.RLock()
        with Shield():
            self.cluster = EmbeddedCluster(offer) if address is None else None
            self.address = self.cluster.address if self.cluster else address or ""
            try:
                self._join(namespace, log_to_driver=log_to_driver)
            except BaseException:
                self._give_up()
                raise

    def _join(self, namespace: str, *, log_to_driver: bool) -> None:
        # Loaded while the agent of an embedded cluster starts.
        from cloudray.driver.client import DriverClient

        ledger = Ledger()
        raw = Counting(open_store(self.address), ledger)
        store = Reliable(raw)
        with Shield.lifted():
            # Nothing is written before it is known that this is a cluster, or nothing yet.
            settings = drive(Reliable(raw, give_up_s=REACH_S), look(self.address))
            probe(store)
            times = configuration.current().timing(timing_for(self.address))
            settings = settings or drive(store, join(self.address, times))
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
        with Shield.lifted():
            self._connect()

    def _give_up(self) -> None:
        """Joining failed, or was interrupted: leave nothing behind."""
        client: DriverClient | None = getattr(self, "client", None)
        try:
            if client is not None:
                client.close()
                client.store.close()
        finally:
            if self.cluster is not None:
                self.cluster.close()

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's, and do nothing to it."""
        self.client.forget()
        if self.cluster is not None:
            self.cluster.forget()

    def close(self, *, telling: bool = False, interrupted: bool = False) -> None:
        """Leave; an embedded cluster ends with its driver.

        `telling`: say what becomes of tasks that have not ended. `interrupted`: Ctrl-C is why.
        """
        with self._closing, Shield():
            counts = Counts()
            try:
                with self._interruptible():
                    if telling and not self.client.closed:
                        counts = self.client.counts()
                    self.client.flush()
            except KeyboardInterrupt:
                notices.warn(f"interrupted: not all that was submitted is stored at {self.address}")
                raise
            except (StoreError, ObjectStoreFullError):
                # What an embedded cluster cannot store would end with it anyway.
                if self.cluster is None:
                    raise
            finally:
                self._hang_up()
            if telling:
                self._tell(counts, interrupted=interrupted)

    def _hang_up(self) -> None:
        try:
            with self._interruptible():
                self.client.hang_up()
        finally:
            if self.cluster is not None:
                self.cluster.close()
            self.client.store.close()

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Where a store is far away, what has to do with it may take long."""
        return Shield.lifted() if self.cluster is None else contextlib.nullcontext()

    def _tell(self, counts: Counts, *, interrupted: bool) -> None:
        if self.cluster is None:
            text = notices.going_on(self.address, counts, interrupted=interrupted)
        else:
            text = notices.stopped(counts, interrupted=interrupted)
        if text is not None:
            say = notices.warn if counts.pending else notices.inform
            say(text)

    def _connect(self) -> None:
        client = self.client
        if self.cluster is None:
            beats = drive(client.store, heartbeats())
            self._introduction = notices.joined(self.address, [beat.total for beat in beats])
            if not client.store.inline:
                client.see(beats)
            for beat in beats:
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
        offered = {} if peer.greeting is None else peer.greeting.total
        room_bytes = self.cluster.storage.object_store_memory
        self._introduction = notices.started(self.address, offered, room_bytes)

    def introduce(self) -> None:
        """Say what has started, to whoever looks on."""
        notices.inform(self._introduction)

    def _agent_lost(self, address: str, agent: str) -> None:
        """The embedded agent died: another one takes over what it held."""
        cluster = self.cluster
        if cluster is None or address != cluster.socket_path:
            return
        now_s = time.monotonic()
        if now_s - self._restarted_s > _STEADY_S:
            self._restarts = 0
        self._restarted_s = time.monotonic()
        self._restarts += 1
        self._restarted_s = now_s
        if self._restarts > _MAX_RESTARTS:
            self.client.give_up(
                f"the agent of the embedded cluster died {self._restarts} times in a row; it said:"
                f"\n{cluster.log()}\nCall cloudray.shutdown() and cloudray.init() to start over."
            )
            return
        try:
            self.client.connect(cluster.restart(agent))
        except OSError as error:
            self.client.give_up(
                f"the agent of the embedded cluster died and cannot be started again: {error}. "
                "Call cloudray.shutdown() and cloudray.init() to start over."
            )


def _describe_job(namespace: str) -> Job:
    return Job(
        id=ids.new_timed_id(),
        python=sys.version.split()[0],
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
