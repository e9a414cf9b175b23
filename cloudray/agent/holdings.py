"""The batches this agent holds: from a won claim to the last word in the journal."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from functools import partial

from cloudray import ids
from cloudray.agent import shortage
from cloudray.agent.arguments import Arguments
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.functions import Functions, MissingFunctionError
from cloudray.agent.held import NOBODY, Held, Status
from cloudray.agent.io import Io
from cloudray.agent.orphans import is_orphan, last_words
from cloudray.agent.parents import Parents
from cloudray.agent.resolver import Resolver
from cloudray.exceptions import RaySystemError
from cloudray.protocol import claims, sharing
from cloudray.protocol import journal as journals
from cloudray.protocol.claims import Won
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import FORCE, Batch, Cluster, Verb, Word
from cloudray.store.base import Delete
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName
from cloudray.values.outcomes import error_payload

_log = logging.getLogger(__name__)

#: While its tasks run, a batch's journal (and its parent's) is looked at every so many commits.
LOOK_COMMITS = 5


class Holdings:
    """Takes batches on, publishes what is said about their tasks, and lets them go."""

    def __init__(
        self,
        io: Io,
        agent: str,
        settings: Cluster,
        functions: Functions,
        resolver: Resolver,
        clock: Callable[[], float],
        on_published: Callable[[Journal], None],
        on_room: Callable[[], None],
    ) -> None:
        self._io = io
        self._agent = agent
        self._settings = settings
        self._functions = functions
        self._resolver = resolver
        self._clock = clock
        self._on_published = on_published
        self._on_room = on_room
        self.dispatcher: Dispatcher
        self.by_batch: dict[bytes, Held] = {}
        #: batches that were claimed, and calls of their tasks that ended, since the agent began
        self.taken = self.calls = 0
        #: tasks that it gave back to the queue, because it leaves
        self.given_back = 0
        #: set while nothing is held
        self.empty = asyncio.Event()
        self.empty.set()
        self._preparing: dict[bytes, QueueName] = {}
        #: batches whose claims were under way during a pause: others may have taken them since
        self._doubtful: set[bytes] = set()
        #: nothing new is begun: the agent is leaving
        self.draining = False
        #: whether a job has ended, so that nothing of it may run
        self.is_over: Callable[[bytes], bool] = lambda _: False
        #: told of a batch of which a record cannot be read: it is given back
        self.on_refused: Callable[[QueueName, RecordError], None]
        self._parents = Parents(io, self.by_batch, self._orphaned)
        self._arguments = Arguments(
            resolver,
            self._became_ready,
            self.consider,
            lambda batch, contains: self.dispatcher.valued(batch, contains, ()),
        )
        self._looked_s = 0.0
        self._retired: deque[tuple[float, QueueName, int]] = deque()

    # -- taking on ---------------------------------------------------------------------------

    def take(self, name: QueueName, won: Won) -> None:
        """A claim was won: prepare its tasks, at once where nothing has to be read first."""
        self.taken += 1
        job = ids.job_of(name.batch)
        known = self._functions.all_of(won.batch, job)
        if known is not None and self._is_simple(won.batch, job):
            self._begin(Held(name, won, known, job, self._clock()))
        else:
            self._preparing[name.batch] = name
            self._io.spawn(self._prepare(name, won, job))

    def _is_simple(self, batch: Batch, job: bytes) -> bool:
        """Whether a batch may begin without anything being read or written first."""
        if self.draining or batch.id in self._doubtful or self.is_over(job):
            return False
        parent = batch.parent
        if parent is not None:
            # Where its parent is held here too, what is known of that is enough, and costs nothing.
            held = self.by_batch.get(parent.batch)
            if held is None or is_orphan(parent, held.journal):
                return False
        return not any(task.origin for task in batch.tasks)

    def doubt(self, claiming: Collection[bytes]) -> None:
        """A pause is over: what was being claimed in it may be somebody else's by now."""
        self._doubtful |= self._preparing.keys() | set(claiming)

    @property
    def holds_anything(self) -> bool:
        """Whether there are batches that others could take over."""
        return bool(self.by_batch or self._preparing)

    def has(self, batch: bytes) -> bool:
        """Whether a batch is held, or about to be."""
        return batch in self.by_batch or batch in self._preparing

    @property
    def preparing_tasks(self) -> int:
        """How many tasks have been claimed and are not known to the dispatcher yet."""
        return sum(name.size for name in self._preparing.values())

    async def _prepare(self, name: QueueName, won: Won, job: bytes) -> None:
        try:
            await self._read_and_begin(name, won, job)
        except RecordError as error:
            # Nothing of it has started. Kept, it would look like one that nobody runs, and be
            # claimed again at every scan.
            self.on_refused(name, error)
            await self._io.do(claims.give_back(name, won.claim))
        finally:
            del self._preparing[name.batch]
            self._doubtful.discard(name.batch)
            self._on_room()

    async def _read_and_begin(self, name: QueueName, won: Won, job: bytes) -> None:
        if self.is_over(job):
            await self._io.do(claims.retire(name))
            return
        await self._io.do(sharing.settle(won.batch, won.journal, claim=won.claim))
        try:
            known = await self._io.do(self._functions.read(won.batch, job))
        except (MissingFunctionError, RecordError) as missing:
            # Gone, or not to be trusted: its calls end here, as they would everywhere.
            payload = error_payload(RaySystemError(str(missing)))
            words = [
                Word(index, Verb.FAILED, (payload,), NOBODY)
                for index in range(len(won.batch.tasks))
            ]
            await self._conclude(name, won, words)
            return
        if await self._parents.has_orphaned(won.batch.parent):
            await self._conclude(name, won, last_words(won.batch, won.journal))
            return
        if self.draining and not won.journal.next:
            await self._io.do(claims.give_back(name, won.claim))
            self.given_back += len(won.batch.tasks)
            return
        if name.batch in self._doubtful and not await self._io.do(
            claims.still_last(name, won.claim, self._agent)
        ):
            return
        self._begin(Held(name, won, known, job, self._clock()))

    async def _conclude(self, name: QueueName, won: Won, words: list[Word]) -> None:
        """Say how all tasks of a batch end that will not be run."""
        await self._io.do(journals.append(won.journal, words, claim=won.claim))
        await self._io.do(claims.retire(name))
        self.retired(name, won.claim)
        self._on_published(won.journal)

    def _begin(self, held: Held) -> None:
        self.by_batch[held.batch.id] = held
        self.empty.clear()
        held.note(list(held.journal.decided))
        self._resolver.hold(held.journal)
        for index, task in enumerate(held.batch.tasks):
            if held.status[index] is Status.SAID:
                continue
            if task.depends_on or task.arguments_id:
                self._arguments.want(held, index)
            else:
                self.dispatcher.ready(held, index)
        self.dispatcher.run()
        self.consider(held)

    _running_soon = False

    def _became_ready(self, held: Held, index: int) -> None:
        """A task has its arguments: let it start, when no more become ready at the moment."""
        self.dispatcher.ready(held, index)
        if not self._running_soon:
            self._running_soon = True
            asyncio.get_running_loop().call_soon(self._run_now)

    def _run_now(self) -> None:
        self._running_soon = False
        self.dispatcher.run()

    @property
    def waiting_tasks(self) -> int:
        """How many tasks wait for arguments."""
        return sum(len(held.missing) for held in self.by_batch.values())

    # -- publishing --------------------------------------------------------------------------

    def consider(self, held: Held) -> None:
        """Publish now if the batch is over or a commit interval has passed, else then."""
        if held.busy or held.dropped:
            return
        if held.unsaid == 0 and not held.outbox:
            self._publish(held)
            return
        if not held.outbox:
            return
        due_s = held.published_s + self._settings.commit_s
        now_s = self._clock()
        if held.unsaid == 0 or now_s >= due_s or self._is_urgent(held):
            self._publish(held)
        elif not held.timer:
            held.timer = True
            asyncio.get_running_loop().call_later(due_s - now_s, self._due, held)

    def _is_urgent(self, held: Held) -> bool:
        """Whether somebody here waits for a word in the outbox, and slots are idle meanwhile."""
        awaited = self._resolver.awaited(held.batch.id)
        if not awaited or self.dispatcher.ready_tasks():
            return False
        return any(word.index in awaited for word in held.outbox)

    def _due(self, held: Held) -> None:
        held.timer = False
        self.consider(held)

    def _publish(self, held: Held) -> None:
        now_s = self._clock()
        words = held.take_outbox(now_s, self._settings.commit_s)
        durations = held.take_durations()
        self.calls += sum(duration.calls for duration in durations)
        held.published_s = now_s
        held.busy = True
        self._io.run(
            shortage.publish(held, words, durations),
            partial(self._published, held),
            partial(self._refused, held, words),
        )

    def _refused(self, held: Held, words: list[Word]) -> None:
        """The store would not have them: try again a lease later, when it may have room."""
        held.busy = False
        decided = held.journal.decided
        held.take_back([word for word in words if word.index not in decided])
        # For some there may have been room.
        standing = [word.index for word in words if word.index in decided]
        if standing:
            self.learned(held, standing)
        if not held.timer and not held.dropped:
            held.timer = True
            asyncio.get_running_loop().call_later(self._settings.lease_s, self._due, held)

    def _published(self, held: Held, fresh: list[int]) -> None:
        held.busy = False
        self.learned(held, fresh)
        if held.dropped:
            return
        self.consider(held)
        if held.look_again and not held.busy:
            held.look_again = False
            self.look_at(held.batch.id)

    def learned(self, held: Held, fresh: list[int]) -> None:
        """The journal decided these tasks: stop what runs in vain, and tell who waits."""
        running = {index for index in fresh if index in held.running}
        held.note(fresh)
        if running:
            forced = {index for index in running if _is_forced(held.journal.decided[index])}
            self.dispatcher.interrupt(held, running, force=forced)
        if fresh:
            self._resolver.decided(held.batch.id, fresh)
        told = held.told
        held.told = held.journal.next
        over = held.journal.complete and not held.dropped
        if over:
            # Before it is told: the driver may then delete the journal, and a queue entry without
            # one would be run again.
            self._retire(held)
        if fresh or held.journal.complete or held.journal.next != told:
            # Also what only says that tasks have started: somebody may look on.
            self._on_published(held.journal)
        if over:
            self.drop(held)
            self._on_room()

    def _retire(self, held: Held) -> None:
        self._io.run(claims.retire(held.name))
        self.retired(held.name, held.claim)

    def retired(self, name: QueueName, claim: int) -> None:
        """The entry of a batch that is over was removed: its claims go a lease later.

        Should a delayed duplicate of its submission bring the entry back, a claim that stayed would
        look as if this agent were at it.
        """
        self._retired.append((self._clock(), name, claim))

    async def forget_claims(self) -> None:
        """Delete the claims of batches that were retired a lease ago."""
        before_s = self._clock() - self._settings.lease_s
        keys: list[str] = []
        while self._retired and self._retired[0][0] < before_s:
            _, name, claim = self._retired.popleft()
            keys += claims.forget(name, claim).keys
        if keys:
            await self._io.store.perform_async(Delete(tuple(keys)))

    def drop(self, held: Held) -> None:
        """Stop caring about a batch: it is finished, or another's."""
        held.dropped = True
        self.by_batch.pop(held.batch.id, None)
        if not self.by_batch:
            self.empty.set()
        self._resolver.let_go(held.batch.id)

    # -- looking -----------------------------------------------------------------------------

    def look_at(self, batch: bytes) -> None:
        """Somebody wrote into a journal: see what, if the batch is ours."""
        held = self.by_batch.get(batch)
        if held is None:
            return
        if held.busy:
            held.look_again = True
            return
        held.busy = True
        self._io.run(
            journals.catch_up(held.journal),
            partial(self._published, held),
            partial(self._refused, held, []),
        )

    def tick(self) -> None:
        """Every commit interval: say STARTED of what runs long; now and then look for news."""
        now_s = self._clock()
        commit_s = self._settings.commit_s
        look = now_s - self._looked_s >= LOOK_COMMITS * commit_s
        if look:
            self._looked_s = now_s
        for held in list(self.by_batch.values()):
            if held.busy or held.dropped:
                continue
            if any(
                now_s - since_s >= commit_s
                and (held.claim, held.attempts.get(index, 0))
                not in held.journal.started.get(index, ())
                for index, since_s in held.running.items()
            ):
                self._publish(held)
            elif look and (held.running or held.missing):
                self.look_at(held.batch.id)
        if look:
            self._parents.look()

    def _orphaned(self, held: Held, parent: Journal) -> None:
        running = set(held.running)
        for word in last_words(held.batch, held.journal):
            held.say(word)
        origin = held.batch.parent
        forced = origin is not None and _is_forced(parent.decided[origin.index])
        self.dispatcher.interrupt(held, running, force=running if forced else set())
        self.consider(held)

    def end(self, job: bytes) -> list[QueueName]:
        """A job has ended: stop all that runs of it here, and let go; returns what that was."""
        names = []
        for held in [held for held in self.by_batch.values() if held.job == job]:
            running = set(held.running)
            self.dispatcher.interrupt(held, running, force=running)
            self.drop(held)
            names.append(held.name)
        return names


def _is_forced(word: Word) -> bool:
    """Whether a task is to be stopped by force."""
    return word.verb is Verb.CANCELLED and FORCE in word.values
