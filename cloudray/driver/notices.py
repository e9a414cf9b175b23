"""What a driver says of its cluster, in a line or two: when it starts, and what its end stopped."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from cloudray.driver.describing import Counts, amount
from cloudray.driver.screen import notebook_shell, somebody_looks_on
from cloudray.protocol.demand import Demand
from cloudray.sizes import show_size


def started(address: str, offered: Mapping[str, int], store_bytes: int | None = None) -> str:
    """The line about an embedded cluster that has just started.

    >>> started("file:///dev/shm/c/store?durable=false", {"CPU": 20_000})
    'embedded cluster, 2 CPUs (file:///dev/shm/c/store)'
    """
    parts = ["embedded cluster", *(amount(name, units) for name, units in offered.items() if units)]
    if store_bytes is not None:
        parts.append(f"{show_size(store_bytes)} object store")
    return f"{', '.join(parts)} ({short_address(address)})"


def joined(address: str, offers: Sequence[Demand]) -> str:
    """The line about a cluster that was there before, whose agents offer this.

    >>> joined("s3://bucket/a", [{"CPU": 20_000}, {"CPU": 40_000}])
    'joined s3://bucket/a, 2 agents, 6 CPUs'
    """
    if not offers:
        return (
            f"joined {address}, which no agent serves yet: tasks wait until one does "
            f"(python -m cloudray.agent {address})"
        )
    agents = f"{len(offers)} agent{'s' if len(offers) > 1 else ''}"
    cpus = sum(offer.get("CPU", 0) for offer in offers)
    return f"joined {short_address(address)}, {agents}, {amount('CPU', cpus)}"


def short_address(address: str) -> str:
    """An address without its parameters.

    >>> short_address("file:///dev/shm/c/store?durable=false")
    'file:///dev/shm/c/store'
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def stopped(counts: Counts, *, interrupted: bool) -> str | None:
    """What the end of an embedded cluster stopped; None when that is nothing to speak of.

    >>> print(stopped(Counts(done=12, running=3), interrupted=True))
    interrupted; stopped the embedded cluster: 12 tasks done, 3 running tasks were dropped
    """
    if interrupted:
        done = f"{counts.done} task{'' if counts.done == 1 else 's'} done"
        dropped = f", {_pending(counts)} dropped" if counts.pending else ""
        return f"interrupted; stopped the embedded cluster: {done}{dropped}"
    if not counts.pending:
        return None
    return (
        f"the program ended, and the embedded cluster with it: {_pending(counts)} dropped. Wait "
        "for values with cloudray.get(refs), or join a cluster that outlives the program: "
        'cloudray.init("file:///shared/folder")'
    )


def going_on(address: str, counts: Counts, *, interrupted: bool) -> str | None:
    """What goes on in a cluster that this driver leaves, how to collect it and how to stop it."""
    if not counts.pending:
        return None
    shown = "\n".join(f"    {identifier.hex()}" for identifier in counts.examples)
    more = counts.pending - len(counts.examples)
    shown += f"\n    and {more} more: what their refs' hex() returns" if more > 0 else ""
    left = "interrupted" if interrupted else "the program ended"
    return (
        f"{left}; {_pending(counts)} left to {short_address(address)}, where work goes on.\n"
        f'  join again:   cloudray.init("{address}")\n'
        "  collect one:  cloudray.get(cloudray.ObjectRef.from_hex(...))\n"
        "  stop one:     cloudray.cancel(cloudray.ObjectRef.from_hex(...))\n"
        f"  where ... is one of these:\n{shown}"
    )


def _pending(counts: Counts) -> str:
    parts = [(counts.running, "running"), (counts.queued, "queued")]
    shown = " and ".join(f"{number} {what}" for number, what in parts if number)
    return f"{shown} task was" if counts.pending == 1 else f"{shown} tasks were"


def inform(text: str) -> None:
    """Say something to whoever looks on: on a terminal or in a notebook, unless he wants peace."""
    if logging.getLogger("cloudray").isEnabledFor(logging.INFO) and somebody_looks_on():
        _say(text)


def warn(text: str) -> None:
    """Say something that somebody should know, wherever standard error goes."""
    if logging.getLogger("cloudray").isEnabledFor(logging.WARNING):
        _say(text)


def _say(text: str) -> None:
    line = f"cloudray: {text}"
    if notebook_shell() is not None:
        from IPython.display import display  # loaded already

        display({"text/plain": line}, raw=True)  # type: ignore[no-untyped-call]
    elif sys.stderr is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
