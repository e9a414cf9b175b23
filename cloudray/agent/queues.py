"""Ready tasks, in lines by what they need; children before their parents' siblings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from cloudray.agent.functions import Lane
from cloudray.agent.held import Held, Status


class Line:
    """The ready tasks of one lane.

    Deeper tasks go first: a parent that waits for its children has lent its slot to them, and
    starting another parent there would only make one more that waits.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._by_depth: dict[int, deque[tuple[Held, int]]] = {}
        #: may count tasks that have been decided meanwhile; never too low
        self.count = 0

    def __len__(self) -> int:
        return self.count

    @property
    def depth(self) -> int:
        """How deep the first task is; -1 when there is none."""
        return max((depth for depth, tasks in self._by_depth.items() if tasks), default=-1)

    def add(self, held: Held, index: int) -> None:
        """Put a task at the end of its depth."""
        self._by_depth.setdefault(held.batch.depth, deque()).append((held, index))
        self.count += 1

    def pop(self) -> tuple[Held, int] | None:
        """The next task that is still ready."""
        while (depth := self.depth) >= 0:
            held, index = self._by_depth[depth].popleft()
            self.count -= 1
            if not held.dropped and held.status[index] is Status.READY:
                return held, index
        self.count = 0
        return None

    def has_ready(self) -> bool:
        """Whether some task is still ready."""
        task = self.pop()
        if task is None:
            return False
        self.push_back(*task)
        return True

    def push_back(self, held: Held, index: int) -> None:
        """Put a task back where `pop` found it."""
        self._by_depth.setdefault(held.batch.depth, deque()).appendleft((held, index))
        self.count += 1

    def __iter__(self) -> Iterator[tuple[Held, int]]:
        for tasks in self._by_depth.values():
            for held, index in tasks:
                if not held.dropped and held.status[index] is Status.READY:
                    yield held, index


class Queues:
    """All lines of this agent."""

    def __init__(self) -> None:
        self._lines: dict[Lane, Line] = {}

    def add(self, lane: Lane, held: Held, index: int) -> None:
        """A task has become ready."""
        line = self._lines.get(lane)
        if line is None:
            line = self._lines[lane] = Line(lane)
        line.add(held, index)

    def __len__(self) -> int:
        return sum(line.count for line in self._lines.values())

    def in_order(self) -> list[Line]:
        """The lines that have tasks, the deepest first."""
        waiting = [line for line in self._lines.values() if line.count]
        if len(waiting) > 1:
            waiting.sort(key=lambda line: -line.depth)
        return waiting
