"""Claims whose batches are over, and who should have removed them has died."""

from __future__ import annotations

from collections.abc import Callable

from cloudray.agent.io import Io
from cloudray.protocol import claims
from cloudray.store import layout
from cloudray.store.envelope import RecordError


class Leftovers:
    """Remembers since when scans have shown claims without their entry."""

    def __init__(self, io: Io, clock: Callable[[], float], lease_s: float) -> None:
        self._io = io
        self._clock = clock
        self._lease_s = lease_s
        #: by stem
        self._since_s: dict[str, float] = {}

    async def sweep(self, last_claim: dict[str, int], entries: set[str], *, freed: bool) -> None:
        """Delete the claims of batches that went a lease ago, if who should have done so died."""
        now_s = self._clock()
        leftovers = {stem for stem in last_claim if stem not in entries}
        self._since_s = {stem: self._since_s.get(stem, now_s) for stem in leftovers}
        for stem, since_s in list(self._since_s.items()):
            name = layout.parse_stem(stem)
            if name is not None and now_s - since_s > 3 * self._lease_s:
                try:
                    await self._io.do(claims.sweep(name, last_claim[stem], freed=freed))
                except RecordError as error:
                    self._io.complain(error)
