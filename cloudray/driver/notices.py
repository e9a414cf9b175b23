"""What a driver says of its cluster, in a line or two: when it starts, and what its end stopped."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cloudray.driver.describing import Counts
from cloudray.driver.screen import notebook_shell, somebody_looks_on
from cloudray.protocol.demand import amount, python_tag
from cloudray.sizes import show_size

if TYPE_CHECKING:
    from cloudray.protocol.arriving import Arrival


def started(address: str, offered: Mapping[str, int], store_bytes: int | None = None) -> str:
    """The line about an embedded cluster that has just started.

    >>> started("file:///dev/shm/c/store?durable=false", {"CPU": 20_000})
    'embedded cluster, 2 CPUs (file:///dev/shm/c/store)'
    """
    parts = ["embedded cluster", *(amount(name, units) for name, units in offered.items() if units)]
    if store_bytes is not None:
        parts.append(f"{show_size(store_bytes)} object store")
    return f"{', '.join(parts)} ({short_address(address)})"


def joined(address: str, found: Arrival, python: str | None = None) -> str:
    """The line about a cluster that was there before: who serves it, and what waits there.

    `python` is the tag of this process's Python version, which its tasks need too.

    >>> from cloudray.protocol.arriving import Arrival
    >>> print(joined("s3://bucket/a", Arrival(pending=40)).partition(". ")[0])
    joined s3://bucket/a, which no agent serves now, 40 tasks pending
    """
    python = python_tag() if python is None else python
    waiting = ""
    if found.pending:
        count = f"{'over ' * found.more}{found.pending:,}"
        waiting = f", {count} task{'' if count == '1' else 's'} pending"
    start = f"`cloudray worker {shlex.quote(address)}`"
    place = short_address(address)
    if not found.beats:
        silent = f" ({_agents(found.silent)} fell silent)" if found.silent else ""
        return (
            f"joined {place}, which no agent serves now{silent}{waiting}. Tasks wait until one "
            f"does: start it with {start}"
        )
    offers = [
        amount(name, units)
        for name in ("CPU", "GPU")
        if (units := sum(beat.total.get(name, 0) for beat in found.beats)) or name == "CPU"
    ]
    line = f"joined {place}, {_agents(len(found.beats))}, {', '.join(offers)}{waiting}"
    # One that does not tell may be of any version.
    versions = {beat.python for beat in found.beats}
    if {python, ""} & versions:
        return line
    from cloudray.protocol.reasons import show_python  # few need it

    theirs = " and ".join(sorted(map(show_python, versions)))
    return (
        f"{line}. None of them runs Python {show_python(python)} as this program does (they have "
        f"{theirs}): tasks wait until one does. Start it with {start}"
    )


def needs_attention(found: Arrival, python: str | None = None) -> bool:
    """Whether whoever joins should hear of it even where nobody looks on: no agent can help.

    >>> from cloudray.protocol.arriving import Arrival
    >>> needs_attention(Arrival())
    True
    """
    python = python_tag() if python is None else python
    return not any(beat.python in {python, ""} for beat in found.beats)


def wrong_clock(found: Arrival) -> str | None:
    """What to say of this machine's clock; None while it agrees with the store's."""
    from cloudray.store.clocks import TOLERATED_S, describe_skew

    if found.ahead_s is None or abs(found.ahead_s) <= TOLERATED_S:
        return None
    return describe_skew(found.ahead_s)


def _agents(count: int) -> str:
    return f"{count} agent{'' if count == 1 else 's'}"


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


def going_on(address: str, job: str, counts: Counts, *, interrupted: bool) -> str | None:
    """What goes on in a cluster that this driver leaves, how to collect it and how to stop it."""
    if not counts.pending:
        return None
    shown = "\n".join(f"    {identifier.hex()}" for identifier in counts.examples)
    more = counts.pending - len(counts.examples)
    shown += f"\n    and {more} more: what their refs' hex() returns" if more > 0 else ""
    left = "interrupted" if interrupted else "the program ended"
    which = f"{job} {shlex.quote(address)}"
    one = f"\n  collect one:  cloudray.get(cloudray.ref(...)), where ... is one of these:\n{shown}"
    return (
        f"{left}; {_pending(counts)} left to {short_address(address)}, where work goes on as job "
        f"{job}.\n"
        f"  look at it:   cloudray jobs show {which}\n"
        f"  stop it:      cloudray jobs cancel {which}\n"
        f'  join again:   cloudray.init("{address}")\n'
        f'  collect all:  cloudray.get(cloudray.get_job("{job}").refs())'
        f"{one if counts.examples else ''}"
    )


def cut_short(address: str, job: str) -> str:
    """What to say when Ctrl-C came while what was submitted was being stored."""
    which = f"{job} {shlex.quote(address)}"
    return (
        "interrupted while what was submitted was being stored: some of it may be missing at "
        f"{short_address(address)}. What is there goes on as job {job}.\n"
        f"  look at it:   cloudray jobs show {which}\n"
        f"  stop it:      cloudray jobs cancel {which}"
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
