"""Why work is not being done: what is asked, and what the agents say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

from cloudray import ids
from cloudray.protocol.demand import Demand, amount, amounts, fits, quantity
from cloudray.protocol.records import Batch, Heartbeat
from cloudray.protocol.results import Results
from cloudray.store.procedures import Procedure

#: What `why_queued` says of work for which there is room.
ABOUT_TO_START = "about to start"


def why_queued(demand: Demand, beats: Sequence[Heartbeat], python: str = "") -> str:
    """Why a task that asks for this, under this Python (its tag; any when empty), is queued.

    >>> why_queued({"GPU": 10_000}, [Heartbeat("a", 1, "host", 1, "", {"CPU": 20_000}, {})])
    'it asks for 1 GPU, and no agent has that much (at most 2 CPUs)'
    >>> why_queued({"CPU": 10_000}, [])
    'no agent serves this cluster'
    """
    if not beats:
        return "no agent serves this cluster"
    able = [beat for beat in beats if not python or beat.python in ("", python)]
    if not able:
        others = ", ".join(sorted({show_python(beat.python) for beat in beats}))
        return f"no agent runs Python {show_python(python)} (those that there are run {others})"
    large = [beat for beat in able if fits(demand, beat.total)]
    if not large:
        return f"it asks for {amounts(demand)}, and no agent has that much ({most(able)})"
    staying = [beat for beat in large if not beat.draining]
    if not staying:
        return f"it asks for {amounts(demand)}, and every agent with so much is leaving"
    if any(fits(demand, beat.free) for beat in staying):
        return ABOUT_TO_START
    busy = [
        f"{quantity(name, total - free)} of {amount(name, total)} busy"
        for name, units in demand.items()
        for free, total in [_sums(name, staying)]
        if free < units or len(staying) > 1
    ]
    return f"no free slot ({', '.join(busy)})"


def _sums(name: str, beats: Sequence[Heartbeat]) -> tuple[int, int]:
    """What of a resource is free on all agents together, and what there is."""
    free = sum(max(0, beat.free.get(name, 0)) for beat in beats)
    return free, sum(beat.total.get(name, 0) for beat in beats)


def most(beats: Sequence[Heartbeat]) -> str:
    """What the best-equipped agents have."""
    names = dict.fromkeys(name for beat in beats for name in beat.total)
    return "at most " + amounts(
        {name: max(beat.total.get(name, 0) for beat in beats) for name in names}
    )


def show_python(tag: str) -> str:
    """A Python version as people write it.

    >>> show_python("py311"), show_python("")
    ('3.11', 'another')
    """
    return f"{tag[2:3]}.{tag[3:]}" if tag.startswith("py") else "another"


def lacking(batch: Batch) -> Procedure[bytes | None]:
    """The first argument that a batch waits for; None when some task of it has all it needs."""
    results = Results()
    first: bytes | None = None
    for task in batch.tasks:
        lacks: bytes | None = None
        for identifier in task.depends_on:
            if ids.index_of(identifier) == ids.PUT_INDEX:
                continue
            if (yield from results.follow(identifier)) is None:
                lacks = identifier
                break
        if lacks is None:
            return None
        first = first or lacks
    return first
