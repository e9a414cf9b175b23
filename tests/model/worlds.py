"""The worlds that are explored: small ones, each with another kind of trouble."""

from __future__ import annotations

from tests.model.processes import Agent, Canceller, Process, Reader, Submitter, Sweeper
from tests.model.world import Budget, World, root_batch

ONE = root_batch(1)
TWO = root_batch(2)
THREE = root_batch(3)
#: The orders in which claim, entry and journal (0, 1, 2) are met that are performed together.
JOURNAL_FIRST, ENTRY_FIRST = (2, 1, 0), (1, 2, 0)
#: one task that may run once at most
ONCE = root_batch(1, max_retries=0)
#: one task, and two, of which a crash costs each its only retry
FRAIL = root_batch(1, max_retries=1)
FRAIL_TWO = root_batch(2, max_retries=1)


def agents(
    *,
    groups: bool = False,
    rings: bool = False,
    forgets: bool = False,
    notes: bool = False,
    beside: tuple[int, ...] = (),
) -> tuple[Process, ...]:
    """Two agents, and a third one that appears when both are dead."""
    return tuple(
        Agent(
            tag,
            groups=groups,
            rings=rings,
            forgets=forgets,
            notes=notes,
            reserve=tag == "c",
            beside=beside,
        )
        for tag in "abc"
    )


WORLDS = {
    # Agents die, and are taken for dead.
    "takeover": World(agents(), THREE, Budget(crashes=1, losses=1, takeovers=1)),
    "two crashes": World(agents(groups=True), THREE, Budget(crashes=2, losses=1, takeovers=1)),
    "two lost answers": World(
        agents(groups=True), ONE, Budget(crashes=1, losses=2, takeovers=1), lies=True
    ),
    "to and fro": World(agents(groups=True), TWO, Budget(crashes=1, takeovers=2, doubts=2)),
    # Work is given away, by its holder or by who is taken for dead, and given away again.
    "giving away": World(agents(), THREE, Budget(crashes=1, takeovers=1, gifts=1)),
    "giving away, answers lost": World(
        agents(groups=True), TWO, Budget(crashes=1, losses=1, gifts=1)
    ),
    "giving away what was given": World(agents(groups=True), THREE, Budget(crashes=1, gifts=2)),
    # A task that must not run twice.
    "once": World(agents(), ONCE, Budget(crashes=2, losses=1, takeovers=1, deaths=1), lies=True),
    "once, given away": World(agents(), ONCE, Budget(crashes=1, losses=1, takeovers=1, gifts=1)),
    # Executors and agents die under tasks that have few retries.
    "retries": World(agents(), FRAIL, Budget(crashes=2, losses=1, takeovers=1, deaths=2)),
    "retries, starts noted late": World(
        agents(notes=True), FRAIL_TWO, Budget(crashes=2, takeovers=1, deaths=1)
    ),
    # A cancel races with everything.
    "cancel, giving away": World(
        (*agents(groups=True), Canceller(THREE.id, 2)), THREE, Budget(takeovers=1, gifts=1)
    ),
    "cancel, giving away, crash": World(
        (*agents(groups=True), Canceller(TWO.id, 1)), TWO, Budget(crashes=1, gifts=1)
    ),
    "cancel, answers lost": World(
        (*agents(groups=True), Canceller(TWO.id, 1)),
        TWO,
        Budget(crashes=1, losses=1, takeovers=1),
    ),
    "cancel once": World(
        (*agents(groups=True), Canceller(ONCE.id, 0)), ONCE, Budget(crashes=1, gifts=1)
    ),
    # Somebody reads meanwhile, and goes on from what it has read.
    "reader": World(
        (*agents(groups=True), Canceller(TWO.id, 1), Reader("reader", ((TWO.id, 1),))),
        TWO,
        Budget(gifts=1),
    ),
    # The bell outruns the put.
    "early": World(
        (Submitter(TWO, rings=True), *agents(groups=True, rings=True)),
        TWO,
        Budget(crashes=1, losses=1),
        lies=True,
    ),
    "early, giving away": World(
        (Submitter(TWO, rings=True), *agents(groups=True, rings=True)),
        TWO,
        Budget(crashes=1, gifts=1),
    ),
    # Batches are given back.
    "giving back": World(agents(groups=True), TWO, Budget(crashes=1, takeovers=1, returns=2)),
    "giving back, answers lost": World(
        agents(groups=True), ONE, Budget(crashes=1, losses=1, takeovers=1, returns=1)
    ),
    # Claims are removed while puts are late.
    "forgetting": World(
        (Submitter(ONE), *agents(groups=True, forgets=True)),
        ONE,
        Budget(crashes=1, losses=1, takeovers=1),
    ),
    "sweeping": World(
        (Submitter(ONCE, rings=True), *agents(rings=True), Sweeper()), ONCE, Budget(crashes=1)
    ),
    # Entry and journal are read beside the first claim, so before it at worst.
    "beside, takeover": World(
        agents(beside=JOURNAL_FIRST), TWO, Budget(crashes=1, losses=1, takeovers=1)
    ),
    "beside, once": World(
        agents(beside=JOURNAL_FIRST), ONCE, Budget(crashes=1, losses=1, takeovers=1), lies=True
    ),
    "beside, cancel": World(
        (*agents(groups=True, beside=JOURNAL_FIRST), Canceller(TWO.id, 1)),
        TWO,
        Budget(crashes=1, takeovers=1, gifts=1),
    ),
    "beside, cancel once": World(
        (*agents(beside=ENTRY_FIRST), Canceller(ONCE.id, 0)), ONCE, Budget(crashes=1, losses=1)
    ),
    "beside, early": World(
        (Submitter(TWO, rings=True), *agents(groups=True, rings=True, beside=ENTRY_FIRST)),
        TWO,
        Budget(crashes=1, losses=1),
    ),
    "beside, early, giving away": World(
        (Submitter(TWO, rings=True), *agents(groups=True, rings=True, beside=JOURNAL_FIRST)),
        TWO,
        Budget(crashes=1, gifts=1),
    ),
    "beside, forgetting": World(
        (Submitter(ONE), *agents(groups=True, forgets=True, beside=JOURNAL_FIRST)),
        ONE,
        Budget(crashes=1, losses=1, takeovers=1),
    ),
    "beside, forgetting once": World(
        (Submitter(ONCE), *agents(groups=True, forgets=True, beside=ENTRY_FIRST)),
        ONCE,
        Budget(crashes=1, losses=1, takeovers=1),
    ),
    "beside, sweeping": World(
        (Submitter(ONCE, rings=True), *agents(rings=True, beside=JOURNAL_FIRST), Sweeper()),
        ONCE,
        Budget(crashes=1),
    ),
    "beside, giving back": World(
        agents(groups=True, beside=ENTRY_FIRST), TWO, Budget(crashes=1, takeovers=1, returns=2)
    ),
}
