"""Finding work: rings, scans of the queue, claims, and the batches of agents that died."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from cloudray import ids
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.functions import demands_fit
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.protocol import claims, demand
from cloudray.protocol import journal as journals
from cloudray.protocol.claims import Early, Finished, Lost, Won
from cloudray.protocol.journal import Journal
from cloudray.protocol.leases import Observer
from cloudray.protocol.records import Batch, Claim, unseal
from cloudray.protocol.results import Results
from cloudray.store import layout
from cloudray.store.base import Entry, Get, List
from cloudray.store.layout import QueueName, claim_of
from cloudray.store.procedures import Procedure

#: Agents claim only what should start within this time.
MAX_BACKLOG_S = 2.0
#: Claims under way at once.
MAX_CLAIMING = 8
#: Tasks that wait for arguments; an agent with more takes only batches that can start.
MAX_WAITING_TASKS = 20_000
_PAGE = 1000


class Candidate(msgspec.Struct):
    """A batch that could be claimed."""

    name: QueueName
    #: the claim number to try
    number: int
    #: submitted by a task of ours that may be waiting for it
    urgent: bool = False


class Discovery:
    """Decides what to claim, and claims it."""

    def __init__(
        self,
        io: Io,
        agent: str,
        total: demand.Demand,
        dispatcher: Dispatcher,
        holdings: Holdings,
        lease_s: float,
        clock: Callable[[], float],
        dead: tuple[str, ...] = (),
    ) -> None:
        self._io = io
        self._agent = agent
        self._total = total
        self._dispatcher = dispatcher
        self._holdings = holdings
        self._lease_s = lease_s
        self._clock = clock
        #: agents that are known to have ended
        self._dead = frozenset(dead)
        self._observer = Observer(lease_s)
        self._candidates: dict[bytes, Candidate] = {}
        self._claiming: set[bytes] = set()
        self._unfit: set[bytes] = set()
        #: batches that this machine cannot run
        self._misfits: dict[bytes, QueueName] = {}
        self._fits: dict[str, tuple[bool, bool]] = {}
        #: claim key -> agent that it names
        self._holders: dict[str, str] = {}
        #: agent -> the batches it holds, with their claim numbers
        self._watched: dict[str, dict[bytes, tuple[QueueName, int]]] = {}
        self._leftovers: dict[str, float] = {}
        self.stopped = False

    #: a batch turned out to be over
    on_finished: Callable[[Journal], None]
    #: a batch that nobody has claimed does not fit this machine; said again at every scan
    on_misfit: Callable[[QueueName], None]

    @property
    def watching(self) -> bool:
        """Whether other agents hold batches, so that their heartbeats matter."""
        return bool(self._watched)

    def heard(self, names: tuple[QueueName, ...]) -> None:
        """A bell rang for these batches."""
        for name in names:
            if name.batch not in self._candidates:
                self._offer(Candidate(name, 1))
        self.claim()

    def offer(self, name: QueueName, number: int = 1, *, urgent: bool = False) -> None:
        """A batch that is known to be claimable."""
        self._offer(Candidate(name, number, urgent))
        self.claim()

    def _offer(self, candidate: Candidate) -> None:
        batch = candidate.name.batch
        if self._holdings.has(batch) or batch in self._claiming:
            return
        if batch in self._unfit or not self._fit(candidate.name.klass)[0]:
            self._met_misfit(candidate.name)
        else:
            self._candidates[batch] = candidate

    def _met_misfit(self, name: QueueName) -> None:
        self._misfits[name.batch] = name
        self.on_misfit(name)

    def look_at(self, batch: bytes) -> None:
        """Somebody wrote into a journal: if nobody can run the batch, its tasks may be cancelled.

        Then whoever claims it finds it over and says so; but this one, nobody claims.
        """
        name = self._misfits.get(batch)
        if name is not None:
            self._io.run(_retire_if_over(name), self._looked)

    def _looked(self, journal: Journal) -> None:
        if journal.complete and self._misfits.pop(journal.batch, None) is not None:
            self._unfit.discard(journal.batch)
            self.on_finished(journal)

    def _fit(self, klass: str) -> tuple[bool, bool]:
        """Whether some batch of a class may fit this machine, and whether every one does."""
        known = self._fits.get(klass)
        if known is None:
            known = self._fits[klass] = (
                demand.may_host(klass, self._total),
                demand.is_exact(klass, self._total),
            )
        return known

    # -- claiming ----------------------------------------------------------------------------

    def claim(self) -> None:
        """Claim what should start soon."""
        while self._candidates and len(self._claiming) < MAX_CLAIMING and not self.stopped:
            candidate = self._next()
            if candidate is None:
                return
            name = candidate.name
            del self._candidates[name.batch]
            self._claiming.add(name.batch)
            exact = self._fit(name.klass)[1]
            waiting = self._holdings.waiting_tasks >= MAX_WAITING_TASKS
            if exact and (candidate.urgent or not waiting):
                self._io.run(
                    claims.claim(name, candidate.number, self._agent),
                    partial(self._claimed, candidate),
                    partial(self._claiming.discard, name.batch),
                )
            else:
                self._io.spawn(self._claim_after_reading(candidate, only_ready=waiting))

    def _next(self) -> Candidate | None:
        for candidate in self._candidates.values():
            if candidate.urgent:
                return candidate
        backlog_s = self._dispatcher.backlog_s(self._holdings.preparing_tasks)
        if self._dispatcher.fenced or backlog_s >= MAX_BACKLOG_S:
            return None
        return next(iter(self._candidates.values()), None)

    async def _claim_after_reading(self, candidate: Candidate, *, only_ready: bool) -> None:
        try:
            await self._read_and_claim(candidate, only_ready=only_ready)
        finally:
            self._claiming.discard(candidate.name.batch)

    async def _read_and_claim(self, candidate: Candidate, *, only_ready: bool) -> None:
        name = candidate.name
        key = claim_of(name.stem, 0)
        body = await self._io.store.perform_async(Get(key))
        batch = None if body is None else unseal(Batch, body, key)
        if batch is None or not demands_fit(batch, self._total):
            if batch is not None:
                self._unfit.add(name.batch)
                self._met_misfit(name)
            return
        if only_ready and not await self._io.do(_can_start(batch)):
            return
        outcome = await self._io.do(claims.claim(name, candidate.number, self._agent))
        self._claimed(candidate, outcome)

    def _claimed(self, candidate: Candidate, outcome: claims.Outcome) -> None:
        name = candidate.name
        self._claiming.discard(name.batch)
        if isinstance(outcome, Won):
            self._holdings.take(name, outcome)
        elif isinstance(outcome, Lost):
            self._seen(name, candidate.number, outcome.agent)
        elif isinstance(outcome, Finished):
            # All its tasks were cancelled before anybody held it: nobody else will say so.
            self.on_finished(outcome.journal)
        elif isinstance(outcome, Early):
            # Given back at once, under the next number; the scan finds it when it is there.
            self._candidates.pop(name.batch, None)

    # -- scanning ----------------------------------------------------------------------------

    async def scan(self) -> None:
        """Read the queue: batches and claims side by side."""
        entries: set[str] = set()
        last_claim: dict[str, int] = {}
        after = ""
        while True:
            page: list[Entry] = await self._io.store.perform_async(List(layout.QUEUE, after, _PAGE))
            for entry in page:
                parsed = layout.parse_queue(entry.key)
                if parsed is None:
                    continue
                stem, number = parsed
                if number == 0:
                    entries.add(stem)
                else:
                    last_claim[stem] = max(number, last_claim.get(stem, 0))
            if len(page) < _PAGE:
                break
            after = page[-1].key
        self._watched.clear()
        found = [name for stem in sorted(entries) if (name := layout.parse_stem(stem)) is not None]
        self._unfit &= {name.batch for name in found}
        self._misfits.clear()
        for name in found:
            if not self._holdings.has(name.batch):
                await self._sort_in(name, last_claim.get(name.stem, 0))
        await self._sweep(last_claim, entries)
        self.claim()

    async def _sort_in(self, name: QueueName, last: int) -> None:
        if last == 0:
            self._offer(Candidate(name, 1))
            return
        key = claim_of(name.stem, last)
        holder = self._holders.get(key)
        if holder is None:
            body = await self._io.store.perform_async(Get(key))
            if body is None:
                return
            holder = self._holders[key] = unseal(Claim, body, key).agent
        self._seen(name, last, holder)

    def _seen(self, name: QueueName, number: int, holder: str) -> None:
        if self._holdings.has(name.batch) or name.batch in self._claiming:
            return
        if not holder or holder == self._agent or holder in self._dead:
            # Given back; or ours, and we know nothing of it: then it is as good as given back.
            self._offer(Candidate(name, number + 1))
        else:
            self._watched.setdefault(holder, {})[name.batch] = (name, number)

    async def _sweep(self, last_claim: dict[str, int], entries: set[str]) -> None:
        """Delete the claims of batches that went a lease ago, if who should have done so died."""
        now_s = self._clock()
        leftovers = {stem for stem in last_claim if stem not in entries}
        self._leftovers = {stem: self._leftovers.get(stem, now_s) for stem in leftovers}
        for stem, since_s in list(self._leftovers.items()):
            name = layout.parse_stem(stem)
            if name is not None and now_s - since_s > 3 * self._lease_s:
                await self._io.do(claims.sweep(name, last_claim[stem]))
        self._holders = {
            key: holder
            for key, holder in self._holders.items()
            if key.rpartition(".")[0] in entries
        }

    # -- the dead ----------------------------------------------------------------------------

    def look_at_agents(self, etags: dict[str, str]) -> set[str]:
        """Take in a listing of heartbeats, and take over what the dead held; returns the dead."""
        watched = (self._watched.keys() | etags.keys()) - {self._agent}
        dead = self._observer.look(self._clock(), etags, watched)
        for agent in dead:
            for name, number in self._watched.pop(agent, {}).values():
                self._offer(Candidate(name, number + 1))
        if dead:
            self.claim()
        return dead


def _retire_if_over(name: QueueName) -> Procedure[Journal]:
    journal = Journal(name.batch, name.size)
    yield from journals.catch_up(journal)
    if journal.complete:
        yield from claims.retire(name)
    return journal


def _can_start(batch: Batch) -> Procedure[bool]:
    """Whether some task of a batch has all it needs."""
    results = Results()
    for task in batch.tasks:
        ready = True
        for identifier in task.depends_on:
            if ids.index_of(identifier) == ids.PUT_INDEX:
                continue
            if (yield from results.follow(identifier)) is None:
                ready = False
                break
        if ready:
            return True
    return False
