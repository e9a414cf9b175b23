"""Waiting for values: of task arguments, and of refs that executors ask for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection

from cloudray import ids
from cloudray.agent.io import Io
from cloudray.exceptions import ObjectLostError
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Verb, Word
from cloudray.protocol.results import Results
from cloudray.store import layout
from cloudray.store.base import Get, Head
from cloudray.store.envelope import HEADER_BYTES
from cloudray.values import codec
from cloudray.values.outcomes import error_payload

#: Called with a final verb and the payload that goes with it.
Callback = Callable[[int, bytes], None]

_FIRST_LOOK_S = 0.005
#: So many journals of batches that others hold are kept.
_MAX_JOURNALS = 1000
#: After so many looks that found nothing new, ask whether the job still exists.
_LOOKS_BEFORE_DOUBT = 50


class Resolver:
    """Knows which refs are waited for here, and who waits.

    Journals of batches that this agent holds are folded by their publisher, which calls
    `decided`; all others are looked at with growing pauses.
    """

    def __init__(self, io: Io, rng: random.Random, commit_s: float) -> None:
        self._io = io
        self._rng = rng
        self._commit_s = commit_s
        self.results = Results()
        self._waiting: dict[bytes, dict[int, list[tuple[bytes, Callback]]]] = {}
        self._held: set[bytes] = set()

    def want(self, identifier: bytes, then: Callback) -> None:
        """Call `then` once the value of a ref (or its failure) is known."""
        if ids.index_of(identifier) == ids.PUT_INDEX:
            self._deliver_object(layout.put_object(identifier), identifier, then)
            return
        word = self.results.find(identifier)
        if word is not None:
            self._deliver(identifier, word, then)
            return
        batch, index = self.results.waiting_on(identifier)
        waiting = self._waiting.get(batch)
        if waiting is None:
            waiting = self._waiting[batch] = {}
            if batch not in self._held:
                self._io.spawn(self._poll(batch))
        waiting.setdefault(index, []).append((identifier, then))

    def hold(self, journal: Journal) -> None:
        """From now on this agent holds the batch: its journal is folded elsewhere."""
        batch = journal.batch
        self._held.add(batch)
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
        for (identifier, then), word in found:
            if word is None:
                self.want(identifier, then)
            else:
                self._deliver(identifier, word, then)
        self._trim()

    def _trim(self) -> None:
        """Forget the oldest journals that nobody waits for: whoever asks reads them again."""
        known = self.results.journals
        if len(known) > _MAX_JOURNALS:
            idle = [one for one in known if one not in self._held and one not in self._waiting]
            for batch in idle[: len(known) - _MAX_JOURNALS // 2]:
                del known[batch]

    async def _poll(self, batch: bytes) -> None:
        delay_s = _FIRST_LOOK_S
        looks = 0
        while self._waiting.get(batch) and batch not in self._held:
            journal = self.results.journal(batch)
            fresh = await self._io.do(journals.catch_up(journal))
            if fresh:
                delay_s, looks = _FIRST_LOOK_S, 0
                self.decided(batch, fresh)
                continue
            looks += 1
            if looks % _LOOKS_BEFORE_DOUBT == 0 and await self._is_gone(batch):
                self._give_up(batch)
                return
            await asyncio.sleep(delay_s * (0.75 + self._rng.random() / 2))
            delay_s = min(delay_s * 1.5, self._commit_s)

    async def _is_gone(self, batch: bytes) -> bool:
        """Whether the job was removed: its record first, then everything else."""
        store = self._io.store
        if await store.perform_async(Head(layout.meta(batch))) is not None:
            return False
        journal = self.results.journal(batch)
        return await store.perform_async(Get(journals.key(batch, journal.next))) is None

    def _give_up(self, batch: bytes) -> None:
        for waiters in self._waiting.pop(batch, {}).values():
            for identifier, then in waiters:
                then(Verb.FAILED, error_payload(_lost(identifier)))

    def _deliver(self, identifier: bytes, word: Word, then: Callback) -> None:
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
            self._deliver_object(key, identifier, then, word.verb)

    def _deliver_object(
        self, key: str, identifier: bytes, then: Callback, verb: int = Verb.DONE
    ) -> None:
        path = self._io.store.path(key)
        if path is not None:
            then(verb, codec.local(str(path)))
        else:
            self._io.spawn(self._fetch(key, identifier, then, verb))

    async def _fetch(self, key: str, identifier: bytes, then: Callback, verb: int) -> None:
        body = await self._io.store.perform_async(Get(key))
        if body is None:
            then(Verb.FAILED, error_payload(_lost(identifier)))
        else:
            then(verb, body[HEADER_BYTES:])


def _lost(identifier: bytes) -> ObjectLostError:
    return ObjectLostError(
        identifier.hex(), reason="it is not in the store: its job was deleted or has ended"
    )
