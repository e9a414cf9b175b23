"""The refs that an executor has, as far as the driver must know of them.

A driver that frees what nothing names (see `driver.lifetimes`) has to be told of each unit, a
batch or a stored value, to which an executor has refs: not of each ref, and not of what came and
went within one task, since the task itself keeps that alive.
"""

from __future__ import annotations

from cloudray import ids
from cloudray.context import Anchor, Anchors


class Handles:
    """Knows which units there are refs to in this process, and what has been said of them.

    Not thread-safe: its client holds a lock.
    """

    def __init__(self) -> None:
        self._anchors = Anchors()
        self._last: tuple[bytes, Anchor] | None = None
        self._fresh: list[bytes] = []
        self._pinned: set[bytes] = set()
        #: units of which the driver has been told that there are refs here
        self._told: set[bytes] = set()

    @property
    def restless(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self.has_dropped or self._fresh or self._pinned)

    @property
    def has_dropped(self) -> bool:
        """Whether the last ref to some unit is gone; that happens on any thread, at any moment."""
        return self._anchors.has_gone

    @property
    def holds(self) -> bool:
        """Whether the driver keeps anything for refs here."""
        return bool(self._told)

    def anchor(self, identifier: bytes) -> Anchor:
        """The anchor for a ref that comes from elsewhere."""
        unit = ids.unit_of(identifier)
        anchor = self._anchors.find(unit)
        if anchor is None:
            anchor = self._anchors.make(unit)
            if unit not in self._told:
                self._fresh.append(unit)
        return anchor

    def submitting(self, batch: bytes, *, is_open: bool) -> Anchor:
        """The anchor for a ref to a batch of this process, which is told of when it is sent.

        Kept here only while the batch `is_open`: afterwards, refs alone keep it.
        """
        last = self._last
        if last is not None and last[0] == batch:
            anchor = last[1]
        else:
            found = self._anchors.find(batch)
            anchor = self._anchors.make(batch) if found is None else found
        self._last = (batch, anchor) if is_open else None
        return anchor

    def begun(self, batch: bytes, *, adding: bool) -> bool:
        """A batch is being sent: whether to tell that there are refs to it.

        `adding`: a call is being added to it, and there will be a ref in a moment.
        """
        if adding:
            self.submitting(batch, is_open=True)
        elif self._last is not None and self._last[0] == batch:
            self._last = None
        held = batch in self._anchors
        if held:
            self._told.add(batch)
        return held

    def kept(self, identifier: bytes) -> None:
        """A value is being sent; that there is a ref to it goes without saying."""
        self._told.add(ids.unit_of(identifier))

    def pin(self, identifier: bytes) -> None:
        """A ref goes where nobody can count it."""
        self._pinned.add(ids.unit_of(identifier))

    def take_dropped(self) -> tuple[bytes, ...]:
        """The units that were told of, and to which there are no refs any more."""
        gone = tuple(unit for unit in self._anchors.take_gone() if unit in self._told)
        self._told.difference_update(gone)
        return gone

    def knows(self, identifier: bytes) -> bool:
        """Whether there are refs here to what an id leads to."""
        return ids.unit_of(identifier) in self._anchors

    def take_fresh(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The units to which there are refs by now, and those to be kept for good."""
        fresh, self._fresh = self._fresh, []
        taken = {unit for unit in fresh if unit in self._anchors and unit not in self._told}
        self._told |= taken
        pinned, self._pinned = tuple(self._pinned), set()
        return tuple(taken), pinned
