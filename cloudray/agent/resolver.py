"""Waiting for values: of task arguments, and of refs that executors ask for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from datetime import datetime

from cloudray import ids
from cloudray.agent.cache import AbsentError, Cache
from cloudray.agent.io import Io
from cloudray.exceptions import ObjectLostError, ObjectStoreFullError, RaySystemError
from cloudray.protocol import journal as journals
from cloudray.protocol.jobs import explain_loss
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Verb, Word
from cloudray.protocol.results import Results
from cloudray.store import layout
from cloudray.store.base import Get, Head, StoreError
from cloudray.store.envelope import RecordError
from cloudray.values import codec
from cloudray.values.outcomes import error_payload

#: Called with a final verb and the payload that goes with it.
Callback = Callable[[int, bytes], None]
#: Called instead, by who wants to know, with the word that says how a task failed.
Failed = Callable[[Word], None]
#: Whether who was told of a file may still open it.
InUse = Callable[[], bool]
_Waiter = tuple[bytes, Callback, InUse, Failed | None]

_FIRST_LOOK_S = 0.005
#: So many journals of batches that others hold are kept.
_MAX_JOURNALS = 1000
#: After so many looks that found nothing new, ask whether the job still exists.
_LOOKS_BEFORE_DOUBT = 50


#: Why a value is lost, where nothing else is known.
_NOT_THERE = (
    "it is not in the store: it belongs to another cluster, or its job was deleted or has ended"
)


def _no_longer() -> bool:
    return False


class Resolver:
    """Knows which refs are waited for here, and who waits.

    Journals of batches that this agent holds are folded by their publisher, which calls
    `decided`; all others are looked at with growing pauses.
    """

    def __init__(
        self, io: Io, rng: random.Random, commit_s: float, cache: Cache | None = None
    ) -> None:
        self._io = io
        self._cache = Cache(io.store, ()) if cache is None else cache
        self._rng = rng
        self._commit_s = commit_s
        self.results = Results()
        self._waiting: dict[bytes, dict[int, list[_Waiter]]] = {}
        self._held: set[bytes] = set()
        #: jobs that are known to exist; a ref of another is of another cluster, or its job is gone
        self._jobs: set[bytes] = set()

    def want(
        self,
        identifier: bytes,
        then: Callback,
        in_use: InUse = _no_longer,
        failed: Failed | None = None,
    ) -> None:
        """Call `then` once the value of a ref (or its failure) is known.

        A file that it is told of stays at least as long as `in_use` says. `failed` is called
        instead, if it is given, when the task has failed.
        """
        if ids.index_of(identifier) == ids.PUT_INDEX:
            self._deliver_object(layout.put_object(identifier), identifier, then, in_use)
            return
        word = self.results.find(identifier)
        if word is not None:
            self._deliver(identifier, word, then, in_use, failed)
            return
        batch, index = self.results.waiting_on(identifier)
        waiting = self._waiting.get(batch)
        if waiting is None:
            waiting = self._waiting[batch] = {}
            if batch not in self._held:
                self._io.spawn(self._poll(batch))
        waiting.setdefault(index, []).append((identifier, then, in_use, failed))

    def hold(self, journal: Journal) -> None:
        """From now on this agent holds the batch: its journal is folded elsewhere."""
        batch = journal.batch
        self._held.add(batch)
        self._jobs.add(ids.job_of(batch))
        self.results.journals[batch] = journal
        self.decided(batch, list(journal.decided))

    def let_go(self, batch: bytes) -> None:
        """The batch is held here no longer."""
        self._held.discard(batch)
        if self._waiting.get(batch):
            self._io.spawn(self._poll(batch))
        elif batch not in self._waiting:
            # Whoever asks later reads the journal again; that is cheaper than keeping it.
            self.results.journals.pop(batch, None)

    def awaited(self, batch: bytes) -> Collection[int]:
        """The tasks of a batch for whose words somebody waits here."""
        return self._waiting.get(batch, ())

    def decided(self, batch: bytes, indexes: list[int]) -> None:
        """Words about these tasks were folded into a batch's journal."""
        waiting = self._waiting.get(batch)
        if not waiting:
            return
        # All is taken out and looked up before anybody is told: who is told may finish the batch,
        # which forgets its journal, and may wait for more.
        due = [waiter for index in indexes for waiter in waiting.pop(index, ())]
        if not waiting:
            del self._waiting[batch]
        found = [(waiter, self.results.find(waiter[0])) for waiter in due]
        for (identifier, then, in_use, failed), word in found:
            if word is None:
                self.want(identifier, then, in_use, failed)
            else:
                self._deliver(identifier, word, then, in_use, failed)
        self._trim()

    def _trim(self) -> None:
        """Forget the oldest journals that nobody waits for: whoever asks reads them again."""
        known = self.results.journals
        if len(known) > _MAX_JOURNALS:
            idle = [one for one in known if one not in self._held and one not in self._waiting]
            for batch in idle[: len(known) - _MAX_JOURNALS // 2]:
                del known[batch]

    async def _poll(self, batch: bytes) -> None:
        while True:
            try:
                return await self._poll_until_known(batch)
            except StoreError as error:
                # Whoever waits would wait for ever.
                self._io.complain(error)
                await asyncio.sleep(self._commit_s)

    async def _poll_until_known(self, batch: bytes) -> None:
        delay_s = _FIRST_LOOK_S
        looks = 0
        while self._waiting.get(batch) and batch not in self._held:
            journal = self.results.journal(batch)
            try:
                fresh = await self._io.do(journals.catch_up(journal))
            except RecordError as error:
                self._io.complain(error)
                self._give_up(batch, f"its journal cannot be read: {error}")
                return
            if fresh:
                delay_s, looks = _FIRST_LOOK_S, 0
                self.decided(batch, fresh)
                continue
            looks += 1
            job = ids.job_of(batch)
            if job not in self._jobs or looks % _LOOKS_BEFORE_DOUBT == 0:
                if await self._is_gone(batch):
                    lost = await self._why_lost(batch)
                    self._give_up(batch, lost.reason, lost.date)
                    return
                self._jobs.add(job)
            await asyncio.sleep(delay_s * (0.75 + self._rng.random() / 2))
            delay_s = min(delay_s * 1.5, self._commit_s)

    async def _is_gone(self, batch: bytes) -> bool:
        """Whether the job was removed: its record first, then everything else."""
        store = self._io.store
        if await store.perform_async(Head(layout.meta(batch))) is not None:
            return await store.perform_async(Head(layout.ending(batch))) is not None
        journal = self.results.journal(batch)
        return await store.perform_async(Get(journals.key(batch, journal.next))) is None

    async def _why_lost(self, identifier: bytes) -> ObjectLostError:
        """Why a value is not there: its job may have ended, and that tells when."""
        try:
            return await self._io.do(explain_loss(identifier, _NOT_THERE))
        except (StoreError, RecordError):
            return _lost(identifier, _NOT_THERE)

    def _give_up(self, batch: bytes, reason: str, date: datetime | None = None) -> None:
        for waiters in self._waiting.pop(batch, {}).values():
            for identifier, then, *_ in waiters:
                then(Verb.FAILED, error_payload(_lost(identifier, reason, date)))

    def _deliver(
        self,
        identifier: bytes,
        word: Word,
        then: Callback,
        in_use: InUse,
        failed: Failed | None,
    ) -> None:
        if word.verb is Verb.FAILED and failed is not None:
            failed(word)
            return
        if word.verb is Verb.DONE:
            number = ids.return_of(identifier)
            payload = word.values[number] if number < len(word.values) else b""
        elif word.verb is Verb.FAILED:
            payload = word.values[0]
        else:
            payload = b""
        key = codec.stored_key(payload) if payload else None
        if key is None:
            then(word.verb, payload)
        else:
            self._deliver_object(key, identifier, then, in_use, word.verb)

    def _deliver_object(
        self, key: str, identifier: bytes, then: Callback, in_use: InUse, verb: int = Verb.DONE
    ) -> None:
        try:
            path = self._io.store.path(key)
        except ValueError as error:
            # What a task says its value is may be anything: this leads out of the store.
            then(Verb.FAILED, error_payload(_lost(identifier, f"it names no object: {error}")))
            return
        if path is not None:
            then(verb, codec.local(str(path)))
        else:
            self._io.spawn(self._fetch(key, identifier, then, in_use, verb))

    async def _fetch(
        self, key: str, identifier: bytes, then: Callback, in_use: InUse, verb: int
    ) -> None:
        try:
            payload = await self._cache.payload(key, in_use)
        except AbsentError:
            verb, payload = Verb.FAILED, error_payload(await self._why_lost(identifier))
        except (RecordError, ValueError) as error:
            lost = ObjectLostError(identifier.hex(), reason=f"what is stored is no value: {error}")
            verb, payload = Verb.FAILED, error_payload(lost)
        except ObjectStoreFullError as error:
            verb, payload = Verb.FAILED, error_payload(error)
        except StoreError as error:
            unread = RaySystemError(f"the value of {identifier.hex()} could not be read: {error}")
            verb, payload = Verb.FAILED, error_payload(unread)
        then(verb, payload)


def _lost(identifier: bytes, reason: str, date: datetime | None = None) -> ObjectLostError:
    return ObjectLostError(identifier.hex(), date=date, reason=reason)
