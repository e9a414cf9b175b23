"""The agent: its parts wired together, and the clocks that drive them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cloudray import ids
from cloudray.agent.cache import Cache, Shelf
from cloudray.agent.charity import Charity
from cloudray.agent.discovery import Discovery
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.endings import Endings
from cloudray.agent.functions import Functions, Kind
from cloudray.agent.gateway import Gateway
from cloudray.agent.heart import Heart
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.agent.listening import Listening
from cloudray.agent.logs import EPHEMERAL_BYTES, Logs
from cloudray.agent.misfits import Misfits
from cloudray.agent.orphans import Orphans
from cloudray.agent.others import Others, etags_of
from cloudray.agent.outcomes import Outcomes
from cloudray.agent.packages import Furnished, Packages, is_elsewhere
from cloudray.agent.resolver import Resolver
from cloudray.agent.resources import Resources
from cloudray.agent.rounds import Rounds
from cloudray.agent.starters import Starter
from cloudray.agent.workers import Worker, Workers
from cloudray.bells.base import Doorbell, Ear
from cloudray.bells.choice import bell_of, ear_of
from cloudray.bells.hints import Hint
from cloudray.exceptions import RuntimeEnvSetupError
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand, python_tag
from cloudray.protocol.journal import Journal
from cloudray.protocol.leases import is_frugal
from cloudray.protocol.nodes import list_agents, list_nodes, read_heartbeats
from cloudray.protocol.records import Cluster, Heartbeat, seal
from cloudray.store import Ledger, layout
from cloudray.store.base import Delete, Put, Store, StoreError
from cloudray.store.layout import QueueName
from cloudray.store.room import Room, RoomSpec
from cloudray.version import __version__

_log = logging.getLogger(__name__)

#: How often stuck calls and idle executors are looked for.
_LOOK_S, _IDLE_LOOK_S = 0.02, 0.2
#: How long the last lines of output, and the last request, may take when the agent ends.
_LAST_WORDS_S = 5.0
#: ... and the last request at least so long.
_LAST_REQUEST_S = 1.0
#: After so many leases is asked, each time, whether jobs have ended of which something is held.
_ENDING_LEASES = 4


class Agent:
    """One machine's agent. Everything it knows can be rebuilt from the store."""

    def __init__(  # noqa: PLR0915 - a line or two for each part
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
        labels: Mapping[str, str] | None = None,
        make_workers: Callable[..., Workers] = Workers,
        packages: Packages | None = None,
        bell: Doorbell | None = None,
        ear: Ear | None = None,
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
        self._labels = dict(labels or {})
        self._io = io = Io(store)
        self._resources = resources = Resources(total)
        self._functions = Functions(io)
        self._cache = Cache(store, shelves)
        self._resolver = Resolver(io, rng, settings.commit_s, self._cache)
        self._draining = False
        self._dead = dead
        self._others = Others(self.id, settings, clock, rng)
        self._listed_s = float("-inf")
        self._holdings = holdings = Holdings(
            io,
            self.id,
            settings,
            self._functions,
            self._resolver,
            clock,
            self._published,
            self._room,
        )
        self._dispatcher = dispatcher = Dispatcher(
            io, resources, clock, holdings.consider, self._host
        )
        self._outcomes = Outcomes(io, dispatcher, clock, holdings.consider, self._nonce)
        holdings.dispatcher = dispatcher
        dispatcher.let_go = holdings.drop
        dispatcher.learned = holdings.learned
        limit_bytes = EPHEMERAL_BYTES if settings.ephemeral else None
        self._logs = Logs(io, self.id, self._printed, limit_bytes, self._functions.days_of)
        dispatcher.log_folder = self._logs.folder
        dispatcher.flush_logs = self._logs.flush
        self._discovery = Discovery(
            io, self.id, total, dispatcher, holdings, settings.lease_s, clock, dead, rng
        )
        self._discovery.frugal = self._is_frugal
        self._discovery.freed = settings.ephemeral
        self._heart = Heart(
            io, settings, clock, rng, dispatcher, holdings, self._discovery, self._beat, self.id
        )
        self._endings = Endings(io, self._functions, holdings, layout.agent(self.id))
        #: rings for what is submitted, given away or given back here
        self._bell = bell or bell_of(store, settings, clock)
        self._listening = Listening(
            self._discovery, ear or ear_of(store, settings, clock, rng), rng, clock, settings.scan_s
        )
        self._charity = Charity(io, dispatcher, holdings, clock, self._ring)
        self._gateway = Gateway(
            io,
            self._functions,
            self._resolver,
            dispatcher,
            self._outcomes,
            holdings,
            self._discovery,
            lambda: m.Greeting(self.id, dict(total)),
            partial(list_nodes, settings, 0.0),
            ledger,
            counting=settings.ephemeral,
        )
        dispatcher.valued = self._gateway.valued
        self._outcomes.discard = self.room.release
        dispatcher.over = self._gateway.published
        self._gateway.log_folder = self._logs.folder
        self._gateway.on_submitted = self._submitted
        self._discovery.on_finished = self._gateway.published
        self._misfits = Misfits(io, self._gateway.has_driver, self._gateway.unschedulable)
        self._orphans = Orphans(io, rng, lambda: len(self._others.ids) + 1, self._gateway.published)
        self._discovery.on_misfit = self._met_misfit
        self._workers = make_workers(
            starter, spool, self._setup_of, dispatcher.run, self._gone, self._logs.lines
        )
        if self.room.spec.disk is not None:
            self._workers.folder_when_full = Path(self.room.spec.disk)
        self._packages = packages
        self._workers.furnish = self._furnish
        self._workers.on_unfit = dispatcher.unfit
        if packages is not None:
            self._workers.discard = packages.discard
            if not settings.ephemeral:
                self._workers.is_elsewhere = self._is_elsewhere
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

    async def run(self, stop: asyncio.Event, on_begun: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set; then give back what has not started, and end the rest.

        `on_begun` is called when others can see that this agent is there.
        """
        if not await _unless(stop, self._begin()):
            await self._leave()
            return
        on_begun()
        every = Rounds(self._io, self._clock, self._rng).every
        loops = [
            asyncio.create_task(loop)
            for loop in (
                every(0.0, self._heart.run),
                every(0.0, self._listening.hear),
                every(0.0, self._listening.look_aside),
                every(0.0, partial(self._listening.scan, self._scan)),
                every(self._settings.lease_s / 4, self._mind_the_others),
                every(self._settings.commit_s, self._tick),
                every(_LOOK_S, self._look),
                every(self._settings.lease_s / 4, self._holdings.forget_claims),
                every(_ENDING_LEASES * self._settings.lease_s, self._look_for_endings),
            )
        ]
        try:
            await stop.wait()
        finally:
            for loop in loops:
                loop.cancel()
            await self._leave()

    async def _begin(self) -> None:
        await self._heart.begin()
        if self._dead:
            keys = tuple(layout.agent(agent) for agent in self._dead)
            await self._store.perform_async(Delete(keys))
            # Their executors went with them, and what these had written nobody will adopt.
            self.room.sweep_dead()
            self.room.recount()

    async def drain(self, patience_s: float) -> None:
        """Take nothing new, give back what has not started, and let the rest finish.

        Takes `patience_s` seconds at most, also while the store is away.
        """
        self._draining = self._holdings.draining = True
        self._discovery.stopped = True
        self._heart.soon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                for held in list(self._holdings.by_batch.values()):
                    if held.untouched and not held.busy:
                        tasks = held.unsaid
                        self._holdings.drop(held)
                        try:
                            await self._io.do(claims.give_back(held.name, held.claim))
                        except StoreError as error:
                            # The others are given back nevertheless; this one after a lease.
                            self._io.complain(error)
                        else:
                            self._holdings.given_back += tasks
                            self._ring(held.name, held.claim + 2)
                self._charity.give_everything()
                await self._holdings.empty.wait()

    @property
    def batches_taken(self) -> int:
        """How many batches it has claimed so far."""
        return self._holdings.taken

    @property
    def tasks_given_back(self) -> int:
        """How many tasks it has given back to the queue because it leaves."""
        return self._holdings.given_back

    @property
    def calls_run(self) -> int:
        """How many calls of tasks its executors have ended so far."""
        return self._holdings.calls

    @property
    def running_tasks(self) -> int:
        """How many tasks its executors are at."""
        return sum(len(held.running) for held in self._holdings.by_batch.values())

    async def nothing_held(self) -> None:
        """Wait until it holds no batch."""
        await self._holdings.empty.wait()

    async def _leave(self) -> None:
        self._discovery.stopped = True
        self._dispatcher.draining = True
        await self._workers.stop()
        # A store that is away must not keep it; then its lease ends, as if it had been killed.
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _LAST_WORDS_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._logs.close()
                await self._bell.flush()
        self._io.cancel()
        await self._listening.close()
        await self._bell.close()
        self._cache.close()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            async with asyncio.timeout_at(max(deadline_s, loop.time() + _LAST_REQUEST_S)):
                await self._store.perform_async(Delete((layout.agent(self.id),)))

    # -- clocks ------------------------------------------------------------------------------

    async def _look(self) -> None:
        if not self._dispatcher.busy:
            # Nothing can be stuck: a look costs a wake-up of the machine, so wait for more.
            await asyncio.sleep(_IDLE_LOOK_S)
        self._heart.look()
        self._dispatcher.look()

    def _tick(self) -> None:
        self._holdings.tick()
        self._logs.flush()
        self._gateway.catch_up(self._clock())
        self._discovery.claim()

    async def _scan(self) -> None:
        now_s = self._clock()
        # Some are asked for by rings: who is there, and who holds what, has hardly changed.
        quick = self._is_frugal and now_s - self._listed_s < self._settings.scan_s / 2
        await self._discovery.scan(quick=quick)
        if quick:
            return
        self._listed_s = now_s
        entries = await self._io.do(list_agents())
        self._meet(etags_of(entries))
        await self._orphans.look()
        if self._is_frugal and (silent := self._others.silent()):
            # Nobody watches those, so nothing depends on when. Should one live after all, it beats
            # again.
            await self._store.perform_async(Delete(tuple(map(layout.agent, silent))))

    def _meet(self, etags: dict[str, str]) -> None:
        self._others.meet(etags)
        self._listening.meet(len(self._others.ids))

    @property
    def _is_frugal(self) -> bool:
        """Whether scans are rarer than leases, as they are where each listing costs."""
        return is_frugal(self._settings)

    def _ring(self, name: QueueName, number: int = 1) -> None:
        self._io.spawn(self._bell.ring((Hint(name, number),)))

    def _submitted(self, name: QueueName) -> None:
        """An executor has submitted a batch: others hear of it if this agent cannot take it."""
        if self._others.ids and self._discovery.is_full:
            self._ring(name)

    async def _heartbeat(self) -> None:
        await self._heart.beat()

    async def _beat(self, number: int) -> None:
        heartbeat = Heartbeat(
            self.id,
            number,
            self._host,
            os.getpid(),
            self._socket_path,
            self._resources.total,
            self._resources.free,
            self._draining,
            self.is_idle,
            python_tag(),
            self._labels,
            __version__,
            len(self._store.refusals()),
        )
        await self._store.perform_async(Put(layout.agent(self.id), seal(heartbeat)))

    async def _look_for_endings(self) -> None:
        if not self._settings.ephemeral:
            # One driver's own cluster lasts as long as the driver.
            await self._endings.look()
        self._functions.forget_some(self._jobs_in_use())

    def _jobs_in_use(self) -> set[bytes]:
        held = {one.job for one in self._holdings.by_batch.values()}
        executors = {worker.kind.job for worker in self._workers.all if worker.kind is not None}
        return held | executors | {driver.job for driver in self._gateway.drivers}

    def _met_misfit(self, name: QueueName) -> None:
        self._misfits.met(name)
        self._orphans.met(name)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, and may be given something."""
        return not self._heart.busy and not self._draining

    async def _mind_the_others(self) -> None:
        """Look at the other agents' heartbeats, while anything depends on them."""
        waiting = self._charity.waiting()
        curious = self._others.ids and not self._is_frugal
        if not self._discovery.watching and not waiting and not curious:
            return
        entries = await self._io.do(list_agents())
        etags = etags_of(entries)
        self._meet(etags)
        for agent in self._discovery.look_at_agents(etags):
            # Its batches are being taken over; should it live after all, it beats again.
            await self._store.perform_async(Delete((layout.agent(agent),)))
        if waiting:
            asked = tuple(map(layout.agent, self._others.whom_to_ask()))
            beats = await self._io.do(read_heartbeats(asked))
            if any(beat.idle and not beat.draining for beat in beats):
                self._charity.give()

    # -- between the parts -------------------------------------------------------------------

    def _published(self, journal: Journal) -> None:
        self._gateway.published(journal)

    def _gone(self, worker: Worker, returncode: int) -> None:
        self._gateway.when_heard(worker, partial(self._see_off, worker, returncode))

    def _see_off(self, worker: Worker, returncode: int) -> None:
        self._outcomes.gone(worker, returncode)
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
        self._listening.worked()
        self._discovery.claim()

    def _is_elsewhere(self, kind: Kind) -> bool:
        return is_elsewhere(self._functions.job(kind.job))

    async def _furnish(self, kind: Kind) -> Furnished:
        if self._packages is None:
            raise RuntimeEnvSetupError("this agent takes no code from elsewhere")
        return await self._packages.furnish(kind.code, self._functions.job(kind.job), kind.days)

    def _setup_of(self, kind: Kind) -> m.Setup:
        job = self._functions.job(kind.job)
        log = self._logs.folder(kind.job)
        return m.Setup(job, kind.days, self.id, self.room.spec, log, self._settings.ephemeral)

    def _nonce(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do some work unless `stop` is set before it is done; returns whether it was done."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
    if not working.done():
        return False
    working.result()
    return True
