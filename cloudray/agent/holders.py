"""Who holds the batches that were claimed, as far as this agent has read their claims."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import Random

from cloudray.agent.io import Io
from cloudray.protocol import claims
from cloudray.protocol.records import Claim, unseal
from cloudray.store.base import GetMany
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of

#: Of so many claims that they know nothing of do all agents together read at their scans who made
#: them, but each of a few at least: the others' turn comes with the next scan, of whichever agent.
MAX_STRANGERS = 256
FEW_STRANGERS = 4


class Holders:
    """Remembers whom each claim names.

    A claim never changes, but its key may be used again: when a batch's claims have been deleted,
    and a delayed duplicate of a request brings another one there. Its ETag tells.
    """

    def __init__(self, io: Io, rng: Random) -> None:
        self._io = io
        self._rng = rng
        #: claim key -> its ETag in the listing, agent that it names
        self._known: dict[str, tuple[str, str]] = {}
        #: by stem, the ETag of the last claim in the listing that is gone through
        self._etags: Mapping[str, str] = {}
        #: claims that must be read one by one
        self._single: set[str] = set()

    async def learn(
        self,
        claimed: Sequence[tuple[QueueName, int]],
        etags: Mapping[str, str],
        *,
        agents: int = 1,
    ) -> None:
        """Read these last claims, as one of so many agents; at once where answers take long.

        `etags` are theirs, by stem.
        """
        self._etags = etags
        keys = [claim_of(name.stem, last) for name, last in claimed]
        strangers = [key for key in keys if self._holder(key) is None]
        self._single = set(strangers) if self._io.store.inline else set()
        if self._io.store.inline or not strangers:
            return
        limit = max(FEW_STRANGERS, MAX_STRANGERS // agents)
        if len(strangers) > limit:
            strangers = self._rng.sample(strangers, limit)
        bodies = await self._io.store.perform_async(GetMany(tuple(strangers)))
        for key, body in zip(strangers, bodies, strict=True):
            try:
                if body is not None:
                    self._note(key, unseal(Claim, body, key).agent)
            except RecordError:
                # It is none of ours, or of another version; `of` says so, and of this one alone.
                self._single.add(key)

    async def of(self, name: QueueName, last: int) -> str | None:
        """Whom a batch's last claim names; None when that is not known this time.

        Raises `RecordError` for what is no claim.
        """
        key = claim_of(name.stem, last)
        holder = self._holder(key)
        if holder is None and key in self._single:
            holder = await self._io.do(claims.holder(name, last))
            if holder is not None:
                self._note(key, holder)
        return holder

    def keep(self, stems: Collection[str]) -> None:
        """Forget the claims of all batches but these."""
        self._known = {
            key: known for key, known in self._known.items() if key.rpartition(".")[0] in stems
        }

    def _holder(self, key: str) -> str | None:
        etag, holder = self._known.get(key, ("", None))
        return holder if etag == self._etag(key) else None

    def _note(self, key: str, holder: str) -> None:
        self._known[key] = self._etag(key), holder

    def _etag(self, key: str) -> str:
        return self._etags.get(key.rpartition(".")[0], "")
