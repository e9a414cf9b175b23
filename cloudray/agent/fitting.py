"""Which batches this machine can run; those that it has met and cannot, it looks after."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from cloudray.agent.io import Io
from cloudray.protocol import claims, demand
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure


class Fitting:
    """Judges by a batch's class, or, where that does not tell, by what was read of it.

    `on_misfit` is told of each batch that does not fit, at every scan again; `on_finished` of one
    that turned out to be over.
    """

    def __init__(
        self,
        io: Io,
        total: demand.Demand,
        on_misfit: Callable[[QueueName], None],
        on_finished: Callable[[Journal], None],
    ) -> None:
        """`total` is what the machine has."""
        self._io = io
        self._total = total
        self._on_misfit = on_misfit
        self._on_finished = on_finished
        #: by class: whether some batch of it may fit, and whether every one does
        self._fits: dict[str, tuple[bool, bool]] = {}
        #: batches that were read, and do not fit though their class may
        self._unfit: set[bytes] = set()
        #: batches that this machine cannot run
        self._misfits: dict[bytes, QueueName] = {}

    def may_host(self, klass: str) -> bool:
        """Whether some batch of a class may fit."""
        return self._judge(klass)[0]

    def is_exact(self, klass: str) -> bool:
        """Whether every batch of a class fits."""
        return self._judge(klass)[1]

    def _judge(self, klass: str) -> tuple[bool, bool]:
        known = self._fits.get(klass)
        if known is None:
            known = self._fits[klass] = (
                demand.may_host(klass, self._total),
                demand.is_exact(klass, self._total),
            )
        return known

    def is_misfit(self, name: QueueName) -> bool:
        """Whether it is known that a batch does not fit."""
        return name.batch in self._unfit or not self.may_host(name.klass)

    def refuse(self, name: QueueName) -> None:
        """A batch was read, and does not fit."""
        self._unfit.add(name.batch)
        self.met(name)

    def met(self, name: QueueName) -> None:
        """A batch that does not fit is there, and nobody has claimed it."""
        self._misfits[name.batch] = name
        self._on_misfit(name)

    def keep_met(self, unclaimed: AbstractSet[bytes]) -> None:
        """A scan shows which batches nobody has claimed: the others are looked after."""
        for batch in self._misfits.keys() - unclaimed:
            del self._misfits[batch]

    def keep(self, batches: AbstractSet[bytes]) -> None:
        """A scan shows which batches there are: forget the others."""
        self._unfit &= batches

    def look_at(self, batch: bytes) -> None:
        """Somebody wrote into a journal: if nobody can run the batch, its tasks may be cancelled.

        Then whoever claims it finds it over and says so; but this one, nobody claims.
        """
        name = self._misfits.get(batch)
        if name is not None:
            self._io.run(_retire_if_over(name), self._looked)

    def _looked(self, journal: Journal) -> None:
        if journal.complete and self._misfits.pop(journal.batch, None) is not None:
            self._unfit.discard(journal.batch)
            self._on_finished(journal)


def _retire_if_over(name: QueueName) -> Procedure[Journal]:
    journal = Journal(name.batch, name.size)
    yield from journals.catch_up(journal)
    if journal.complete:
        yield from claims.retire(name)
    return journal
