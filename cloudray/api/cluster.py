"""What a cluster offers: `nodes`, `cluster_resources`, `available_resources`."""

from __future__ import annotations

from typing import Any

from cloudray import context


def nodes() -> list[dict[str, Any]]:
    """One dictionary per agent: `NodeID`, `Alive`, `Resources` and so on.

    >>> import cloudray
    >>> cloudray.nodes()[0]["Alive"]
    True
    """
    return context.client().nodes()


def cluster_resources() -> dict[str, float]:
    """What all agents offer together: resource name to amount (memory in bytes).

    >>> import cloudray
    >>> cloudray.cluster_resources()["CPU"] >= 1
    True
    """
    return _sum("Resources")


def available_resources() -> dict[str, float]:
    """What of it was free at the agents' last heartbeats.

    >>> import cloudray
    >>> cloudray.available_resources()["CPU"] >= 0
    True
    """
    return {name: amount for name, amount in _sum("Available").items() if amount > 0}


def _sum(key: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in nodes():
        for name, amount in node[key].items() if node["Alive"] else ():
            total[name] = total.get(name, 0.0) + amount
    return total
