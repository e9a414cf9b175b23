"""Listings: everything under a prefix, and the queue with its batches and claims side by side."""

from __future__ import annotations

from collections.abc import Sequence

from cloudray.store import layout
from cloudray.store.base import Entry, List
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure

#: How much is listed in one request.
PAGE = 1000


def list_all(prefix: str, after: str = "") -> Procedure[list[Entry]]:
    """List everything under a prefix."""
    found: list[Entry] = []
    while True:
        page: list[Entry] = yield List(prefix, found[-1].key if found else after, PAGE)
        found += page
        if len(page) < PAGE:
            return found


class Listing:
    """The pages of one listing of the queue, as far as they were read."""

    def __init__(self) -> None:
        #: batches, by stem
        self.entries: set[str] = set()
        #: by stem, the highest claim number; also where the entry has gone
        self.last_claims: dict[str, int] = {}
        #: by stem, the ETag of that claim
        self.claim_etags: dict[str, str] = {}
        #: where the next page begins
        self.after = ""
        #: whether the queue holds nothing else
        self.complete = False

    def take(self, page: Sequence[Entry], limit: int) -> list[QueueName]:
        """Take in a page of at most `limit` entries; returns the batches there that nobody claimed.

        The last one of a full page may have claims on the next, and is left out.
        """
        fresh: list[str] = []
        for entry in page:
            parsed = layout.parse_queue(entry.key)
            if parsed is None:
                continue
            stem, number = parsed
            if number == 0:
                self.entries.add(stem)
                fresh.append(stem)
            elif number >= self.last_claims.get(stem, 0):
                self.last_claims[stem] = number
                self.claim_etags[stem] = entry.etag
        self.complete = len(page) < limit
        if page:
            self.after = page[-1].key
        if not self.complete and fresh and self.after.startswith(fresh[-1] + "."):
            fresh.pop()
        free = (stem for stem in fresh if stem not in self.last_claims)
        return [name for stem in free if (name := layout.parse_stem(stem)) is not None]

    def names(self) -> list[tuple[QueueName, int]]:
        """The batches in the order of their keys, each with its highest claim number, or 0."""
        stems = sorted(self.entries)
        if not self.complete and stems and self.after.startswith(stems[-1] + "."):
            stems.pop()
        return [
            (name, self.last_claims.get(stem, 0))
            for stem in stems
            if (name := layout.parse_stem(stem)) is not None
        ]
