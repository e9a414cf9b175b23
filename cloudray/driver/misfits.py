"""Tasks that no agent can run: said once, on the driver's standard error."""

from __future__ import annotations

import logging

from cloudray.protocol import messages as m
from cloudray.protocol.demand import Demand, amounts

_log = logging.getLogger(__name__)


class Misfits:
    """Warns once for each name of a task and what it asks for.

    `embedded`: the cluster is this driver's own, which no other agent joins.
    """

    def __init__(self, *, embedded: bool) -> None:
        self._embedded = embedded
        self._said: set[tuple[str, frozenset[tuple[str, int]], str]] = set()

    def take(self, message: m.Unschedulable) -> None:
        """An agent, maybe one of several, says that nobody can run a task."""
        key = (message.name, frozenset(message.demand.items()), message.python)
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", explain(message, embedded=self._embedded))


def explain(message: m.Unschedulable, *, embedded: bool) -> str:
    """What is asked, what there is, and what to do.

    >>> print(explain(m.Unschedulable("train", {"GPU": 10_000}, {"CPU": 20_000}), embedded=False))
    cloudray: task train asks for 1 GPU, but no agent offers that: the largest has 2 CPUs. It \
waits until one joins that does, or until it is cancelled.
    """
    asked, largest = amounts(message.demand), amounts(message.largest)
    if message.python:
        version = f"{message.python[2:3]}.{message.python[3:]}"
        return (
            f"cloudray: task {message.name} was submitted by Python {version}, but no agent runs "
            "that version. It waits until one joins that does, or until it is cancelled."
        )
    if embedded:
        return (
            f"cloudray: task {message.name} asks for {asked}, but this cluster has only {largest}. "
            "It waits for ever: cancel it and ask for less, or offer more with "
            f"cloudray.init({_offer(message.demand, message.largest)})."
        )
    return (
        f"cloudray: task {message.name} asks for {asked}, but no agent offers that: the largest "
        f"has {largest}. It waits until one joins that does, or until it is cancelled."
    )


def _offer(demand: Demand, largest: Demand) -> str:
    """The arguments of `init` by which a cluster would offer what it lacks."""
    arguments: list[str] = []
    custom: dict[str, float] = {}
    for name, units in demand.items():
        if largest.get(name, 0) >= units:
            continue
        wanted = units / 10_000
        if name in ("CPU", "GPU"):
            arguments.append(f"num_{name.lower()}s={wanted:g}")
        elif name == "memory":
            arguments.append(f"memory={wanted:.0f}")
        else:
            custom[name] = wanted
    if custom:
        arguments.append(f"resources={custom}")
    return ", ".join(arguments)
