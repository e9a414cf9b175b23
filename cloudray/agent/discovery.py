"""Finding work: rings, scans of the queue, claims, and the batches of agents that died."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import islice
from random import Random

from cloudray.agent.candidates import Candidate, carried_by, size_of
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.fitting import Fitting
from cloudray.agent.functions import demands_fit
from cloudray.agent.holders import Holders
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.agent.leftovers import Leftovers
from cloudray.agent.rings import KEEN, MAX_ASIDE, MAX_LOSSES, Ring, is_keen
from cloudray.agent.watched import Watched
from cloudray.bells.base import Heard
from cloudray.protocol import claims, demand
from cloudray.protocol.claims import Early, Finished, Lost, Refused, Won
from cloudray.protocol.journal import Journal
from cloudray.protocol.leases import Observer
from cloudray.protocol.listing import PAGE, Listing
from cloudray.protocol.reasons import lacking
from cloudray.protocol.records import Batch, unseal
from cloudray.store import layout
from cloudray.store.base import Get, GetMany, List
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of
from cloudray.store.procedures import Procedure
from cloudray.store.signing import TamperedError

_log = logging.getLogger(__name__)

#: Agents claim only what should start within this time.
MAX_BACKLOG_S = 2.0
#: Claims under way at once.
MAX_CLAIMING = 8
#: Among so many batches per agent each chooses at random.
WINDOW = 4
#: A scan reads pages until it has found so many batches per agent to claim.
ENOUGH = 64
#: Tasks that wait for arguments; an agent with more takes only batches that can start.
MAX_WAITING_TASKS = 20_000


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
        rng: Random | None = None,
    ) -> None:
        self._io = io
        self._agent = agent
        self._total = total
        self._dispatcher = dispatcher
        self._holdings = holdings
        holdings.on_refused = self._refuse
        self._lease_s = lease_s
        self._clock = clock
        #: agents that are known to have ended
        self._dead = frozenset(dead)
        self._observer = Observer(lease_s)
        self._candidates: dict[bytes, Candidate] = {}
        self._rng = rng or Random()
        #: how many tasks there are, roughly, in batches that are being claimed
        self._claiming: dict[bytes, int] = {}
        #: batches that were left to other agents who heard the same ring
        self._aside: dict[bytes, Candidate] = {}
        self._fitting = Fitting(io, total, self._misfit, self._finished)
        #: entries of the queue that are no batches of ours, by stem: others may name the same batch
        self._refused: set[str] = set()
        self._holders = Holders(io, self._rng)
        self._watched = Watched()
        self._leftovers = Leftovers(io, clock, lease_s)
        #: how many other agents there are
        self.others = 0
        #: claims lost since the last one that was won
        self._lost = 0
        #: agents that hold nothing beat more rarely than once in a lease
        self.frugal = False
        #: journals are removed when their batches are over
        self.freed = False
        self.stopped = False

    #: a batch turned out to be over
    on_finished: Callable[[Journal], None]
    #: a batch that nobody has claimed does not fit this machine; said again at every scan
    on_misfit: Callable[[QueueName], None]

    #: a bell rang, and named nothing new, or only what others had taken
    on_fruitless: Callable[[], None] = staticmethod(lambda: None)

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be claimed now."""
        return self.stopped or self._dispatcher.fenced or self._backlog_s() >= MAX_BACKLOG_S

    @property
    def claiming(self) -> Collection[bytes]:
        """The batches that are being claimed."""
        return self._claiming.keys()

    @property
    def room(self) -> int:
        """For how many batches there is room, at most."""
        return max(0, MAX_CLAIMING - len(self._claiming) - len(self._candidates))

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

    def told(self, hints: Sequence[Heard], *, shared: bool = True) -> None:
        """A bell rang for these batches; `shared`: and other agents heard it too."""
        ring = Ring()
        if not hints:
            self.on_fruitless()
        for heard in hints:
            name, number = heard.hint.name, heard.hint.number
            candidate = Candidate(name, number, heard=heard, ring=ring, carried=carried_by(heard))
            candidate.alone = not shared
            known = self._candidates.get(name.batch)
            if known is not None and known.number >= number:
                self._settle(candidate, fruitful=True)
            elif shared and not is_keen(name.batch, self._agent, self.others + 1):
                self._aside[name.batch] = candidate
            else:
                self._offer(candidate)
        self.claim()

    async def look_aside(self) -> None:
        """Go for batches that were left to others, and that nobody holds."""
        aside, self._aside = list(self._aside.values()), {}
        if not aside or self.is_full or self._candidates:
            return
        if len(aside) > MAX_ASIDE:
            aside = self._rng.sample(aside, MAX_ASIDE)
        keys = tuple(claim_of(each.name.stem, each.number) for each in aside)
        try:
            held: list[bytes | None] = await self._io.store.perform_async(GetMany(keys))
        except RecordError:
            return  # some claim is none of ours: scans sort that out
        for candidate, body in zip(aside, held, strict=True):
            if body is None:
                self._offer(candidate)
        self.claim()

    @property
    def has_aside(self) -> bool:
        """Whether batches were left to others."""
        return bool(self._aside)

    def offer(self, name: QueueName, number: int = 1, *, urgent: bool = False) -> None:
        """A batch that is known to be claimable."""
        self._offer(Candidate(name, number, urgent))
        self.claim()

    def _offer(self, candidate: Candidate) -> None:
        batch = candidate.name.batch
        if self._holdings.has(batch) or batch in self._claiming:
            self._settle(candidate, fruitful=True)
        elif candidate.name.stem in self._refused:
            self._settle(candidate)
        elif self._fitting.is_misfit(candidate.name):
            self._settle(candidate, taken=False)
            self._fitting.met(candidate.name)
        else:
            before = self._candidates.get(batch)
            self._candidates[batch] = candidate
            if before is not None:
                self._settle(before, fruitful=True)

    def _settle(self, candidate: Candidate, *, fruitful: bool = False, taken: bool = True) -> None:
        """It is known what came of a hint; `taken`: no other agent need hear it."""
        heard, ring = candidate.heard, candidate.ring
        candidate.heard = candidate.ring = None
        if heard is not None:
            heard.settle(taken=taken)
        if ring is None or not ring.settle(fruitful=fruitful):
            return
        # Where so many were taken already, the rest is likely to be too.
        for other in [each for each in self._candidates.values() if each.ring is ring]:
            del self._candidates[other.name.batch]
            self._settle(other, taken=False)
        self.on_fruitless()

    def _misfit(self, name: QueueName) -> None:
        self.on_misfit(name)

    def _finished(self, journal: Journal) -> None:
        self.on_finished(journal)

    def look_at(self, batch: bytes) -> None:
        """Somebody wrote into a journal: see what, if nobody can run the batch."""
        self._fitting.look_at(batch)

    # -- claiming ----------------------------------------------------------------------------

    def claim(self) -> None:
        """Claim what should start soon."""
        while self._candidates and len(self._claiming) < MAX_CLAIMING and not self.stopped:
            candidate = self._next()
            if candidate is None:
                return
            name = candidate.name
            del self._candidates[name.batch]
            self._claiming[name.batch] = size_of(name)
            exact = self._fitting.is_exact(name.klass)
            waiting = self._holdings.waiting_tasks >= MAX_WAITING_TASKS
            if exact and (candidate.urgent or not waiting):
                self._io.run(
                    self._claim(candidate),
                    partial(self._claimed, candidate),
                    partial(self._not_claimed, candidate),
                )
            else:
                self._io.spawn(self._claim_after_reading(candidate, only_ready=waiting))

    def _claim(self, candidate: Candidate) -> Procedure[claims.Outcome]:
        prompt = None
        if not self._io.store.inline and (candidate.alone or self.others < KEEN):
            # All that a first claim needs is asked for at once, where answers take long and it is
            # likely to be won: losing costs all three requests.
            began_s = self._clock()
            prompt = lambda: self._clock() - began_s < self._lease_s / 2  # noqa: E731
        return claims.claim(
            candidate.name, candidate.number, self._agent, candidate.carried, prompt
        )

    def _next(self) -> Candidate | None:
        candidates = self._candidates
        backlog_s = self._backlog_s()
        full = self._dispatcher.fenced or backlog_s >= MAX_BACKLOG_S
        # A full agent leaves also what it has submitted itself to others, if there are any.
        if not (full and self.others):
            for candidate in candidates.values():
                if candidate.urgent:
                    return candidate
        if full:
            return None
        # Several agents that know of the same batches must not all begin with the first.
        window = min(len(candidates), WINDOW * (self.others + 1)) if self.others else 1
        chosen = self._rng.randrange(window) if window > 1 else 0
        return next(islice(candidates.values(), chosen, None), None)

    def _backlog_s(self) -> float:
        unknown = self._holdings.preparing_tasks + sum(self._claiming.values())
        return self._dispatcher.backlog_s(unknown)

    def _not_claimed(self, candidate: Candidate) -> None:
        """It could not be tried, or turned out to be nothing for us."""
        self._claiming.pop(candidate.name.batch, None)
        self._settle(candidate, taken=False)

    async def _claim_after_reading(self, candidate: Candidate, *, only_ready: bool) -> None:
        try:
            await self._read_and_claim(candidate, only_ready=only_ready)
        except RecordError as error:
            self._refuse(candidate.name, error)
        finally:
            self._not_claimed(candidate)

    async def _read_and_claim(self, candidate: Candidate, *, only_ready: bool) -> None:
        name = candidate.name
        key = claim_of(name.stem, 0)
        batch = candidate.carried
        if batch is None:
            body = await self._io.store.perform_async(Get(key))
            batch = None if body is None else unseal(Batch, body, key)
        if batch is None or not demands_fit(batch, self._total):
            if batch is not None:
                self._fitting.refuse(name)
            return
        if only_ready and await self._io.do(lacking(batch)) is not None:
            return
        self._claimed(candidate, await self._io.do(self._claim(candidate)))

    def _claimed(self, candidate: Candidate, outcome: claims.Outcome) -> None:
        name = candidate.name
        self._claiming.pop(name.batch, None)
        if isinstance(outcome, Lost):
            self._lost += 1
            if candidate.ring is not None:
                candidate.ring.lost += 1
        elif isinstance(outcome, Won):
            self._lost = 0
        self._settle(candidate, fruitful=isinstance(outcome, Won))
        if isinstance(outcome, Won):
            self._holdings.take(name, outcome)
        elif isinstance(outcome, Lost):
            self._seen(name, candidate.number, outcome.agent)
            if self._lost >= MAX_LOSSES and self.others and not self._io.store.inline:
                self._give_up_stale()
        elif isinstance(outcome, Finished):
            # All its tasks were cancelled before anybody held it: nobody else will say so.
            self._holdings.retired(name, candidate.number)
            self.on_finished(outcome.journal)
        elif isinstance(outcome, Early):
            # Given back at once, under the next number; the scan finds it when it is there.
            self._candidates.pop(name.batch, None)
        elif isinstance(outcome, Refused):
            self._refuse(name, outcome.error)

    def _give_up_stale(self) -> None:
        """Others are faster: what is known of the queue is too old to be worth more claims."""
        self._lost = 0
        stale = [each for each in self._candidates.values() if not each.urgent]
        for candidate in stale:
            del self._candidates[candidate.name.batch]
            self._settle(candidate, taken=False)
        if stale:
            self.on_fruitless()

    def _refuse(self, name: QueueName, error: RecordError) -> None:
        """What lies in the queue must not be run, or cannot be read: it is skipped from now on."""
        if name.stem not in self._refused:
            self._refused.add(name.stem)
            if not isinstance(error, TamperedError):  # which the store has reported
                _log.warning("%s is skipped: %s", name.stem, error)

    # -- scanning ----------------------------------------------------------------------------

    async def scan(self, *, quick: bool = False) -> None:
        """Read the queue, past what others run, until there is enough to claim from.

        A `quick` scan, after a ring, only looks for what nobody has claimed.
        Where there are many agents it is not read to its end by each of them: whoever goes for
        what comes first makes it shorter for the others.
        """
        listing = Listing()
        known = set(self._candidates)
        enough = ENOUGH * (self.others + 1)
        claimable = 0
        while not listing.complete and (claimable < enough or self._io.store.inline):
            page = await self._io.store.perform_async(List(layout.QUEUE, listing.after, PAGE))
            free = listing.take(page, PAGE)
            claimable += sum(self._fitting.may_host(name.klass) for name in free)
        if not quick:
            self._watched.begin()
        found = listing.names()
        if listing.complete:
            # Not all at once: somebody may ask for one of them before it is met again below.
            self._fitting.keep_met({name.batch for name, last in found if not last})
        others = [(name, last) for name, last in found if not self._holdings.has(name.batch)]
        claimed = [(name, last) for name, last in others if last]
        learning = [] if quick else claimed
        await self._holders.learn(learning, listing.claim_etags, agents=self.others + 1)
        for name, last in others:
            await self._sort_in(name, last)
        if not quick:
            self._watched.settle()
        self._forget_taken(listing, known)
        if listing.complete:
            self._fitting.keep({name.batch for name, _ in found})
            self._refused &= {name.stem for name, _ in found}
            await self._leftovers.sweep(listing.last_claims, listing.entries, freed=self.freed)
            self._holders.keep(listing.entries)
        self.claim()

    def _forget_taken(self, listing: Listing, known: set[bytes]) -> None:
        """Give up candidates that the queue shows to be taken, or gone."""
        for batch in known & self._candidates.keys():
            candidate = self._candidates[batch]
            stem = candidate.name.stem
            gone = listing.complete and stem not in listing.entries and not candidate.urgent
            if gone or candidate.number <= listing.last_claims.get(stem, 0):
                del self._candidates[batch]
                self._settle(candidate)

    async def _sort_in(self, name: QueueName, last: int) -> None:
        if last == 0:
            self._offer(Candidate(name, 1))
            return
        try:
            holder = await self._holders.of(name, last)
        except RecordError as error:
            self._refuse(name, error)
            return
        if holder is not None:
            self._seen(name, last, holder)

    def _seen(self, name: QueueName, number: int, holder: str) -> None:
        if self._holdings.has(name.batch) or name.batch in self._claiming:
            return
        if not holder or holder == self._agent or holder in self._dead:
            # Given back; or ours, and we know nothing of it: then it is as good as given back.
            self._offer(Candidate(name, number + 1))
        else:
            self._watched.note(holder, name, number)

    # -- the dead ----------------------------------------------------------------------------

    def look_at_agents(self, etags: dict[str, str]) -> set[str]:
        """Take in a listing of heartbeats, and take over what the dead held; returns the dead."""
        # Those that hold nothing show themselves rarely where that costs: see `Heart`.
        others = set() if self.frugal else etags.keys()
        watched = {*self._watched.agents, *others} - {self._agent}
        dead = self._observer.look(self._clock(), etags, watched)
        for agent in dead:
            for name, number in self._watched.take(agent):
                self._offer(Candidate(name, number + 1))
        if dead:
            self.claim()
        return dead
