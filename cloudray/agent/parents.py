"""The batches whose tasks submitted those that are held here: what is final there orphans these."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudray.agent.held import Held
from cloudray.agent.io import Io
from cloudray.agent.orphans import is_orphan
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Parent
from cloudray.store.procedures import Procedure


class Parents:
    """Reads their journals, each once for all of its children.

    `by_batch` is what is held here; `on_orphan(held, journal)` is told of a batch whose parent is
    final by another attempt's word.
    """

    def __init__(
        self,
        io: Io,
        by_batch: Mapping[bytes, Held],
        on_orphan: Callable[[Held, Journal], None],
    ) -> None:
        self._io = io
        self._by_batch = by_batch
        self._on_orphan = on_orphan
        #: journals of batches that others hold
        self._journals: dict[bytes, Journal] = {}
        #: those of them that are being looked at, which a slow store may take long for
        self._looking: set[bytes] = set()

    async def has_orphaned(self, parent: Parent | None) -> bool:
        """Whether a batch with this parent is an orphan by now."""
        if parent is None:
            return False
        held = self._by_batch.get(parent.batch)
        if held is not None:
            return is_orphan(parent, held.journal)
        # Kept for the looks that follow, as long as there are children of it here.
        journal = self._journals.setdefault(parent.batch, Journal(parent.batch))
        await self._io.do(journals.catch_up(journal))
        return is_orphan(parent, journal)

    def look(self) -> None:
        """Find batches whose parents are final by another attempt's word: one look per journal."""
        children: dict[bytes, list[Held]] = {}
        for held in self._by_batch.values():
            if held.batch.parent is not None:
                children.setdefault(held.batch.parent.batch, []).append(held)
        self._journals = {batch: self._journals.get(batch) or Journal(batch) for batch in children}
        for batch, family in children.items():
            parent = self._by_batch.get(batch)
            if parent is not None:
                self._judge(parent.journal, family)
            elif batch not in self._looking:
                journal = self._journals[batch]
                self._looking.add(batch)
                self._io.run(
                    self._catch_up_alone(journal),
                    lambda _, journal=journal, family=family: self._judge(journal, family),  # type: ignore[misc]
                )

    def _catch_up_alone(self, journal: Journal) -> Procedure[None]:
        """Fold a parent's journal. Two at it would both fold the entry that both have read."""
        try:
            yield from journals.catch_up(journal)
        finally:
            self._looking.discard(journal.batch)

    def _judge(self, parent: Journal, family: list[Held]) -> None:
        for held in family:
            if not held.dropped and is_orphan(held.batch.parent, parent):
                self._on_orphan(held, parent)
