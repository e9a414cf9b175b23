"""What other agents hold, as far as this one has seen their claims."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from cloudray.store.layout import QueueName


class Watched:
    """By agent, the batches that it holds, with the numbers of its claims.

    Between `begin` and `settle` all is noted that is to be known; until then nothing is forgotten,
    so that a scan that fails midway leaves everybody under watch.
    """

    def __init__(self) -> None:
        self._by_agent: dict[str, dict[bytes, tuple[QueueName, int]]] = {}
        self._noted: set[tuple[str, bytes]] = set()

    def __bool__(self) -> bool:
        return bool(self._by_agent)

    @property
    def agents(self) -> AbstractSet[str]:
        """Those who hold something."""
        return self._by_agent.keys()

    def note(self, agent: str, name: QueueName, number: int) -> None:
        """A batch is claimed by this agent."""
        self._by_agent.setdefault(agent, {})[name.batch] = (name, number)
        self._noted.add((agent, name.batch))

    def take(self, agent: str) -> list[tuple[QueueName, int]]:
        """What an agent holds; it is watched no more."""
        return list(self._by_agent.pop(agent, {}).values())

    def begin(self) -> None:
        """Now a scan begins."""
        self._noted.clear()

    def settle(self) -> None:
        """It is over: forget what was not noted meanwhile."""
        for agent, batches in list(self._by_agent.items()):
            kept = {batch: held for batch, held in batches.items() if (agent, batch) in self._noted}
            if kept:
                self._by_agent[agent] = kept
            else:
                del self._by_agent[agent]
        self._noted.clear()
