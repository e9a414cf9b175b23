"""Looking into journals in a store that is far away: many at once, in as few requests as it takes.

A few journals are asked for their next entry each. Where more of one submitter's are open, one
listing from the lowest of them on says which have grown: it costs as much as 12 reads, and a page
of it covers a thousand entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from cloudray import ids
from cloudray.driver.background import Background, Errand
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Entry, Verb, unseal
from cloudray.store import layout
from cloudray.store.base import Entry as Line
from cloudray.store.base import Get, List, Store, StoreError
from cloudray.store.envelope import RecordError
from cloudray.store.signing import TamperedError

#: More open journals of one submitter are listed, not read one by one.
MAX_PROBES = 12
#: Requests under way at once.
MAX_REQUESTS = 32
_PAGE = 1000


class Open(msgspec.Struct, frozen=True):
    """A journal that somebody waits for."""

    #: 25 bytes
    batch: bytes
    #: the lowest number not read yet
    next: int
    #: how many of its tasks are not decided; 0 where that is not known
    missing: int


class Found(msgspec.Struct, frozen=True):
    """An entry of a journal, which comes after those with lower numbers; or why it is none."""

    batch: bytes
    number: int
    entry: Entry | RecordError


class Looking:
    """Reads what is new in journals, in the background; one look at a time."""

    def __init__(
        self,
        store: Store,
        background: Background,
        on_found: Callable[[Found], None],
        on_over: Callable[[bool], None],
    ) -> None:
        """Both are called in the background's thread: `on_over` says whether there was news."""
        self._store = store
        self._errand = Errand(background)
        self._on_found = on_found
        self._on_over = on_over
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._news = False

    @property
    def busy(self) -> bool:
        """Whether a look is under way."""
        return self._errand.busy

    def look(self, wanted: list[Open]) -> None:
        """Begin a look at these journals, unless one is under way."""
        self._errand.begin(lambda: self._look(wanted), lambda: self._on_over(self._news))

    async def _look(self, wanted: list[Open]) -> None:
        self._news = False
        groups: dict[str, list[Open]] = {}
        for one in wanted:
            groups.setdefault(layout.journals(one.batch), []).append(one)
        work = []
        for folder, members in groups.items():
            if len(members) > MAX_PROBES:
                work.append(self._list(folder, members))
            else:
                work += [self._probe(one) for one in members]
        try:
            await asyncio.gather(*work)
        except StoreError:
            # Only what does not pass is raised: whoever waits meets it with a request of its own.
            self._news = False

    async def _probe(self, one: Open) -> None:
        """Read entry after entry until there is none, or the last that can be of use is read."""
        number, missing = one.next, one.missing
        while True:
            entry = await self._read(one.batch, number)
            if entry is None:
                return
            number += 1
            missing -= sum(word.verb is not Verb.STARTED for word in entry.words)
            if one.missing and missing <= 0:
                return

    async def _list(self, folder: str, members: list[Open]) -> None:
        """Find out by listing which journals have grown, and read what is new there."""
        by_number = {ids.number_of(one.batch): one for one in members}
        after = min(layout.journal(one.batch) for one in members)
        last = max(layout.journal(one.batch) for one in members)
        grown: dict[int, list[int]] = {}
        while True:
            async with self._slots:
                page: list[Line] = await self._store.perform_async(List(folder, after, _PAGE))
            for line in page:
                found = layout.parse_journal(line.key)
                if found is None:
                    continue
                number, position = found
                one = by_number.get(number)
                if one is not None and position >= one.next:
                    grown.setdefault(number, []).append(position)
            if len(page) < _PAGE or page[-1].key > last + "~":
                break
            after = page[-1].key
        await asyncio.gather(
            *(self._read_all(by_number[number], places) for number, places in grown.items())
        )

    async def _read_all(self, one: Open, places: list[int]) -> None:
        for position in sorted(places):
            if await self._read(one.batch, position) is None:
                return

    async def _read(self, batch: bytes, number: int) -> Entry | None:
        key = journals.key(batch, number)
        async with self._slots:
            body: bytes | None = None
            try:
                body = await self._store.perform_async(Get(key))
                if body is None:
                    return None
                entry = unseal(Entry, body, key)
            except TamperedError:
                entry = journals.VOID
            except RecordError as error:
                self._on_found(Found(batch, number, error))
                return None
        self._news = True
        self._on_found(Found(batch, number, entry))
        return entry
