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

import msgspec

from cloudray import configuration, ids, platform
from cloudray.driver import notices
from cloudray.driver.describing import Counts
from cloudray.driver.embedded import EmbeddedCluster, Offer
from cloudray.driver.reaching import reach
from cloudray.exceptions import ObjectStoreFullError, RaySystemError
from cloudray.interrupts import Shield
from cloudray.protocol.jobs import queued
from cloudray.protocol.joining import join
from cloudray.protocol.records import Job, seal
from cloudray.store import Ledger, Put, Reliable, StoreError, drive, layout, open_cluster
from cloudray.store.probe import probe
from cloudray.store.watch import Watch
from cloudray.timing import timing_for

if TYPE_CHECKING:
    from cloudray.driver.client import DriverClient

#: How long an agent may take to start on a slow machine.
_START_S = 60.0
#: How long a store that is away may keep a program from ending whose work is all stored.
_LAST_LOOK_S = 2.0
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
        #: a Ctrl-C came while what was submitted was being stored
        self.cut_short = False
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
        embedded = self.cluster is not None
        key = self.cluster.key if self.cluster else configuration.current().key
        raw = open_cluster(self.address, ledger, key, private=embedded)
        watch = Watch(self.address, notices.warn)
        store = Reliable(raw, watch=watch)
        self._briefly = Reliable(raw, give_up_s=_LAST_LOOK_S)
        with Shield.lifted():
            # Nothing is written before it is known that this is a cluster, or nothing yet.
            settings = reach(raw, self.address, key, watch)
            if settings is None or not settings.probed:
                probe(store)
            times = configuration.current().timing(timing_for(self.address))
            settings = settings or drive(store, join(self.address, times, key=key, probed=True))
            days = configuration.current().retention_days
            job = _describe_job(namespace)
            prefix = ids.batch_prefix(days, job.id, bytes(ids.ID_BYTES))
            self._written = (layout.meta(prefix), time.time())
            store.perform(Put(layout.meta(prefix), seal(job)))
        self.client = DriverClient(
            store,
            ledger,
            settings,
            job,
            days=days,
            log_to_driver=log_to_driver,
            on_agent_lost=self._agent_lost,
            # An agent of this process's own sees what it sees.
            send_code=not embedded and configuration.current().send_code,
            max_code_bytes=configuration.current().max_code_size,
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
                    if telling and self.cluster is None:
                        counts = self._with_dropped(counts)
            except KeyboardInterrupt:
                self.cut_short = True
                notices.warn(notices.cut_short(self.address, self.client.job.id.hex()))
                raise
            except (StoreError, ObjectStoreFullError):
                # What an embedded cluster cannot store would end with it anyway.
                if self.cluster is None:
                    raise
            finally:
                self._hang_up()
            if telling:
                self._tell(counts, interrupted=interrupted)

    def _with_dropped(self, counts: Counts) -> Counts:
        """Count also the tasks to which there are no refs any more: they go on like the others."""
        try:
            # Everything is stored: a store that is away now must not keep the program from ending.
            batches = drive(self._briefly, queued(self.client.job.id))
        except (StoreError, KeyboardInterrupt):
            return counts
        # Of our own batches: what agents gave away of them is counted with their refs.
        left = sum(map(self.client.undecided, batches)) - counts.running
        return msgspec.structs.replace(counts, queued=max(counts.queued, left))

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
            job = self.client.job.id.hex()
            text = notices.going_on(self.address, job, counts, interrupted=interrupted)
        else:
            text = notices.stopped(counts, interrupted=interrupted)
        if text is not None:
            say = notices.warn if counts.pending else notices.inform
            say(text)

    def _connect(self) -> None:
        client = self.client
        if self.cluster is None:
            from cloudray.protocol.arriving import look_around  # embedded clusters are never joined

            found = drive(client.store, look_around(client.settings, *self._written))
            beats = found.beats
            self._introduction = notices.joined(self.address, found)
            self._say = notices.warn if notices.needs_attention(found) else notices.inform
            if clock := notices.wrong_clock(found):
                notices.warn(clock)
            if not client.store.inline:
                # It connects too; who is connected twice hears everything twice.
                client.see(beats)
                return
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
        self._say = notices.inform
        self._introduction = notices.started(self.address, offered, room_bytes)

    def introduce(self) -> None:
        """Say what has started, to whoever looks on."""
        self._say(self._introduction)

    def _agent_lost(self, address: str, agent: str) -> None:
        """The embedded agent died: another one takes over what it held."""
        cluster = self.cluster
        if cluster is None or address != cluster.socket_path:
            return
        while not self._restart(cluster, agent):
            # It died before anybody was connected to it, so nothing else will tell of that.
            agent = ""

    def _restart(self, cluster: EmbeddedCluster, dead: str) -> bool:
        """Start an agent instead of the `dead` one, unless too many died; False if it is gone."""
        now_s = time.monotonic()
        if now_s - self._restarted_s > _STEADY_S:
            self._restarts = 0
        self._restarts += 1
        self._restarted_s = now_s
        if self._restarts > _MAX_RESTARTS:
            self.client.give_up(
                f"the agent of the embedded cluster died {self._restarts} times in a row; it said:"
                f"\n{cluster.log()}\nCall cloudray.shutdown() and cloudray.init() to start over."
            )
            return True
        try:
            return self.client.connect(cluster.restart(dead)) is not None
        except OSError as error:
            self.client.give_up(
                f"the agent of the embedded cluster died and cannot be started again: {error}. "
                "Call cloudray.shutdown() and cloudray.init() to start over."
            )
            return True


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
        name=configuration.current().job,
        submitter=ids.new_id(),
    )


def _import_path() -> tuple[str, ...]:
    """The driver's `sys.path`, where an empty entry means the working directory."""
    return tuple(str(Path(entry or ".").resolve()) for entry in sys.path if _is_usable(entry))


def _is_usable(entry: str) -> bool:
    return entry == "" or Path(entry).exists()
