"""Giving away ready tasks that wait here while another agent idles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cloudray import ids
from cloudray.agent.dispatcher import Dispatcher
from cloudray.agent.held import Held, Status
from cloudray.agent.holdings import Holdings
from cloudray.agent.io import Io
from cloudray.protocol import demand, sharing
from cloudray.protocol.records import Batch, Verb
from cloudray.store.layout import QueueName

#: Ready tasks that have waited this long may be given away.
PATIENCE_S = 2.0


class Charity:
    """Notices that work waits, and gives the later half of it away."""

    def __init__(
        self,
        io: Io,
        dispatcher: Dispatcher,
        holdings: Holdings,
        clock: Callable[[], float],
        ring: Callable[[QueueName], None] = lambda _: None,
    ) -> None:
        self._io = io
        self._dispatcher = dispatcher
        self._holdings = holdings
        self._clock = clock
        self._ring = ring
        self._submitter = ids.new_id()
        self._number = 0

    def waiting(self) -> dict[Held, list[int]]:
        """The ready tasks that have waited too long, by batch."""
        since = self._dispatcher.waiting_since(self._clock() - PATIENCE_S)
        return {
            held: fresh
            for held, indexes in since.items()
            if not held.busy and (fresh := [index for index in indexes if held.is_fresh(index)])
        }

    def give(self) -> None:
        """Give away half of what waits; only to be called while another agent is idle."""
        for held, ready in self.waiting().items():
            self._give_by_class(held, sharing.share_of(sorted(ready)))

    def give_everything(self) -> None:
        """Give away all that has not started: this agent is leaving."""
        for held, ready in self._dispatcher.waiting_since(float("inf")).items():
            self._give_by_class(held, [index for index in sorted(ready) if held.is_fresh(index)])

    def _give_by_class(self, held: Held, indexes: list[int]) -> None:
        by_class: dict[str, list[int]] = {}
        for index in indexes:
            klass = demand.class_of(held.known_of(index).demand)
            by_class.setdefault(klass, []).append(index)
        for klass, group in by_class.items():
            self._give(held, klass, group)

    def _give(self, held: Held, klass: str, indexes: list[int]) -> None:
        if held.busy or held.dropped:
            return
        batch = held.batch
        prefix = ids.batch_prefix(ids.days_of(batch.id), held.job, self._submitter)
        part: Batch = sharing.part_of(batch, indexes, ids.batch_id(prefix, self._number))
        self._number += 1
        name = QueueName(klass, held.name.priority, part.id, len(indexes), 0)
        # Nobody may start them here while they leave; if MOVED loses, the journal says to what.
        for index in indexes:
            held.hold_back(index)
        held.busy = True
        self._io.run(
            sharing.give_away(held.journal, part, name, claim=held.claim),
            partial(self._given, held, name, indexes),
            partial(self._refused, held, indexes),
        )

    def _refused(self, held: Held, indexes: list[int]) -> None:
        """The store would not have them: they stay."""
        held.busy = False
        self._keep(held, indexes)

    def _keep(self, held: Held, indexes: list[int]) -> None:
        for index in indexes:
            if held.status[index] is Status.WAITING:
                self._dispatcher.ready(held, index)

    def _given(self, held: Held, name: QueueName, indexes: list[int], fresh: list[int]) -> None:
        held.busy = False
        self._ring(name)
        if self._holdings.draining:
            words = (held.journal.decided.get(index) for index in indexes)
            moved = sum(word is not None and word.verb is Verb.MOVED for word in words)
            self._holdings.given_back += moved
        self._holdings.learned(held, fresh)
        if not held.dropped:
            # One with `max_retries=0` stays if the permission to run it came before MOVED.
            self._keep(held, indexes)
            self._dispatcher.run()
            self._holdings.consider(held)
