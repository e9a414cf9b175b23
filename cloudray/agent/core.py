"""The agent: its parts wired together, and the clocks that drive them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cloudray import ids
from cloudray.agent.cache import Cache, Shelf
from cloudray.agent.charity import Charity
from cloudray.agent.discovery import Discovery
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.functions import Functions, Kind
from cloudray.agent.gateway import Gateway
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.agent.logs import EPHEMERAL_BYTES, Logs
from cloudray.agent.misfits import Misfits
from cloudray.agent.resolver import Resolver
from cloudray.agent.resources import Resources
from cloudray.agent.starters import Starter
from cloudray.agent.workers import Worker, Workers
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand, python_tag
from cloudray.protocol.journal import Journal
from cloudray.protocol.nodes import list_agents, list_nodes, read_heartbeats
from cloudray.protocol.records import Cluster, Heartbeat, seal
from cloudray.store import Ledger, layout
from cloudray.store.base import Delete, Put, Store, StoreFullError
from cloudray.store.room import Room, RoomSpec

_log = logging.getLogger(__name__)

#: How often stuck calls and idle executors are looked for.
_LOOK_S, _IDLE_LOOK_S = 0.02, 0.2
#: How long the last lines of output may take to be written when the agent ends.
_LAST_WORDS_S = 5.0


class Agent:
    """One machine's agent. Everything it knows can be rebuilt from the store."""

    def __init__(
        self,
        store: Store,
        settings: Cluster,
        total: Demand,
        socket_path: str,
        spool: Path,
        ledger: Ledger,
        starter: Starter,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        dead: tuple[str, ...] = (),
        shelves: Sequence[Shelf] = (),
        spill: Path | None = None,
    ) -> None:
        self.id = ids.to_text(ids.new_timed_id())
        self._store = store
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._socket_path = socket_path
        #: where executors write large values
        self.room = store.room or Room(RoomSpec(str(spool), None if spill is None else str(spill)))
        self._host = socket.gethostname()
        self._io = io = Io(store)
        self._resources = resources = Resources(total)
        self._functions = Functions(io)
        self._cache = Cache(store, shelves)
        self._resolver = Resolver(io, rng, settings.commit_s, self._cache)
        self._beat = 0
        self._beaten_s = clock()
        self._draining = False
        self._dead = dead
        #: agents whose heartbeats were there at the last look
        self._others: set[str] = set()
        self._holdings = holdings = Holdings(
            io, settings, self._functions, self._resolver, clock, self._published, self._room
        )
        self._dispatcher = dispatcher = Dispatcher(
            io, resources, clock, holdings.consider, self._nonce, self._host
        )
        holdings.dispatcher = dispatcher
        dispatcher.let_go = holdings.drop
        limit_bytes = EPHEMERAL_BYTES if settings.ephemeral else None
        self._logs = Logs(io, self.id, self._printed, limit_bytes)
        dispatcher.log_folder = self._logs.folder
        dispatcher.flush_logs = self._logs.flush
        self._discovery = Discovery(
            io, self.id, total, dispatcher, holdings, settings.lease_s, clock, dead
        )
        self._charity = Charity(io, dispatcher, holdings, clock)
        self._gateway = Gateway(
            io,
            self._functions,
            self._resolver,
            dispatcher,
            holdings,
            self._discovery,
            lambda: m.Greeting(self.id, dict(total)),
            list_nodes,
            ledger,
            counting=settings.ephemeral,
        )
        dispatcher.valued = self._gateway.valued
        dispatcher.discard = self.room.release
        dispatcher.over = self._gateway.published
        self._gateway.log_folder = self._logs.folder
        self._discovery.on_finished = self._gateway.published
        misfits = Misfits(io, self._gateway.has_driver, self._gateway.unschedulable)
        self._discovery.on_misfit = misfits.met
        self._workers = Workers(
            starter, spool, self._setup_of, dispatcher.run, self._gone, self._logs.lines
        )
        if self.room.spec.disk is not None:
            self._workers.folder_when_full = Path(self.room.spec.disk)
        dispatcher.workers = self._workers
        self._gateway.workers = self._workers

    @property
    def workers(self) -> Workers:
        """The executors."""
        return self._workers

    @property
    def connection_factory(self) -> Callable[[], asyncio.Protocol]:
        """What a server on the agent's socket makes for each connection."""
        return self._gateway.connection

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then give back what has not started, and end the rest."""
        await self._heartbeat()
        if self._dead:
            keys = tuple(layout.agent(agent) for agent in self._dead)
            await self._store.perform_async(Delete(keys))
            # Their executors went with them, and what these had written nobody will adopt.
            self.room.sweep_dead()
            self.room.recount()
        loops = [
            asyncio.create_task(loop)
            for loop in (
                self._every(self._settings.heartbeat_s, self._heartbeat),
                self._every(self._settings.scan_s, self._scan),
                self._every(self._settings.lease_s / 4, self._mind_the_others),
                self._every(self._settings.commit_s, self._tick),
                self._every(_LOOK_S, self._look),
                self._every(self._settings.lease_s / 4, self._holdings.forget_claims),
            )
        ]
        try:
            await stop.wait()
        finally:
            for loop in loops:
                loop.cancel()
            await self._leave()

    async def drain(self, patience_s: float) -> None:
        """Take nothing new, give back what has not started, and let the rest finish."""
        self._draining = True
        self._discovery.stopped = True
        for held in list(self._holdings.by_batch.values()):
            if held.untouched and not held.busy:
                self._holdings.drop(held)
                await self._io.do(claims.give_back(held.name, held.claim))
        self._charity.give_everything()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._holdings.empty.wait(), patience_s)

    async def _leave(self) -> None:
        self._discovery.stopped = True
        self._dispatcher.draining = True
        await self._workers.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._logs.close(), _LAST_WORDS_S)
        self._io.cancel()
        self._cache.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._store.perform_async(Delete((layout.agent(self.id),)))

    # -- clocks ------------------------------------------------------------------------------

    async def _every(self, period_s: float, work: Callable[[], Any]) -> None:
        """Run `work` again and again; an error in it is logged and costs one turn."""
        while True:
            try:
                result = work()
                if result is not None:
                    await result
            except asyncio.CancelledError:
                raise
            except StoreFullError as full:
                self._io.complain(full)
            except Exception:  # noqa: BLE001 - logged, and the agent's other work goes on
                _log.exception("an agent's regular work failed; it goes on")
            await asyncio.sleep(period_s * (0.9 + 0.2 * self._rng.random()))

    async def _look(self) -> None:
        if not self._dispatcher.busy:
            # Nothing can be stuck: a look costs a wake-up of the machine, so wait for more.
            await asyncio.sleep(_IDLE_LOOK_S)
        if self._clock() - self._beaten_s > self._settings.lease_s:
            # On our own clock a lease went by without a heartbeat: others may have taken our
            # batches, so nothing starts until we have read that our claims are still the last.
            self._dispatcher.fenced = True
        self._dispatcher.look()

    def _tick(self) -> None:
        self._holdings.tick()
        self._logs.flush()
        self._gateway.catch_up(self._clock())
        self._discovery.claim()

    async def _scan(self) -> None:
        await self._discovery.scan()
        entries = await self._io.do(list_agents())
        self._others = {entry.key.removeprefix(layout.AGENTS) for entry in entries} - {self.id}

    async def _heartbeat(self) -> None:
        fenced = self._dispatcher.fenced or (
            self._beat > 0 and self._clock() - self._beaten_s > self._settings.lease_s
        )
        self._dispatcher.fenced = fenced
        self._beat += 1
        heartbeat = Heartbeat(
            self.id,
            self._beat,
            self._host,
            os.getpid(),
            self._socket_path,
            self._resources.total,
            self._resources.free,
            self._draining,
            self._is_idle,
            python_tag(),
        )
        began_s = self._clock()
        await self._store.perform_async(Put(layout.agent(self.id), seal(heartbeat)))
        if fenced:
            await self._check_claims()
            self._dispatcher.fenced = False
            self._dispatcher.run()
        self._beaten_s = began_s

    async def _check_claims(self) -> None:
        """After a pause: stop only what a later claim took."""
        for held in list(self._holdings.by_batch.values()):
            if not await self._io.do(claims.still_last(held.name, held.claim)):
                _log.warning("batch %s was taken over while this agent paused", held.name.stem)
                running = set(held.running)
                self._dispatcher.interrupt(held, running, force=running)
                self._holdings.drop(held)

    @property
    def _is_idle(self) -> bool:
        return not self._holdings.by_batch and not self._draining

    async def _mind_the_others(self) -> None:
        """Look at the other agents' heartbeats, while anything depends on them."""
        waiting = self._charity.waiting()
        if not self._discovery.watching and not waiting and not self._others:
            return
        entries = await self._io.do(list_agents())
        etags = {entry.key.removeprefix(layout.AGENTS): entry.etag for entry in entries}
        self._others = etags.keys() - {self.id}
        for agent in self._discovery.look_at_agents(etags):
            # Its batches are being taken over; should it live after all, it beats again.
            await self._store.perform_async(Delete((layout.agent(agent),)))
        if waiting:
            others = tuple(entry.key for entry in entries if entry.key != layout.agent(self.id))
            beats = await self._io.do(read_heartbeats(others))
            if any(beat.idle and not beat.draining for beat in beats):
                self._charity.give()

    # -- between the parts -------------------------------------------------------------------

    def _published(self, journal: Journal) -> None:
        self._gateway.published(journal)

    def _gone(self, worker: Worker, returncode: int) -> None:
        self._dispatcher.gone(worker, returncode)
        self._gateway.left(worker)
        if worker.pid:
            # At the end of a cluster its folders may have gone first.
            with contextlib.suppress(OSError):
                # What it has finished was adopted, or the word about it will never come.
                self.room.sweep(worker.pid, finished=self._store.inline)
                if returncode < 0:
                    self.room.recount()

    def _printed(self, job: bytes, lines: tuple[m.Line, ...]) -> None:
        self._gateway.printed(job, lines)

    def _room(self) -> None:
        self._discovery.claim()

    def _setup_of(self, kind: Kind) -> m.Setup:
        job = self._functions.job(kind.job)
        log = self._logs.folder(kind.job)
        return m.Setup(job, kind.days, self.id, self.room.spec, log, self._settings.ephemeral)

    def _nonce(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"
