"""The explorer: visits every state of a world once, and judges each.

Breadth first, so that a violation comes with one of the shortest histories that lead to it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from cloudray.protocol.records import seal
from cloudray.store.layout import claim_of
from tests.model.histories import line
from tests.model.moves import DEAD, Moves, State
from tests.model.processes import Submitter
from tests.model.world import Violation, World, name_of


class Report(NamedTuple):
    """What an exploration found."""

    #: states that were visited
    states: int
    #: states in which nothing ordinary is left to happen
    ends: int
    #: whether in some history everything goes wrong that may
    spent: bool
    #: the kind of the first violation; empty when there is none
    kind: str = ""
    message: str = ""
    #: how to get there
    history: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = f"{self.kind}: {self.message}" if self.kind else "nothing wrong"
        return "\n  ".join((f"{self.states} states, {self.ends} ends; {found}", *self.history))


def explore(
    world: World, *, overwrites: bool = False, ignored: frozenset[str] = frozenset()
) -> Report:
    """Visit all states of a world, up to the first violation of a kind that is not ignored.

    `overwrites` plants a mistake: a create replaces what is there.
    """
    return _Exploration(Moves(world, overwrites=overwrites), ignored).run()


class _Exploration:
    def __init__(self, moves: Moves, ignored: frozenset[str]) -> None:
        self._moves = moves
        self._world = moves.world
        self._shelf = moves.shelf
        self._ignored = ignored
        #: each state's number, and by number the state from which it was found
        self._numbers: dict[State, int] = {}
        self._parents: list[State] = []
        #: by number, the states that ordinary moves lead to
        self._ordinary: list[list[int]] = []
        self._ends = 0
        #: transitions between stores that were judged
        self._judged: set[tuple[int, int]] = set()

    def run(self) -> Report:
        try:
            self._visit_all()
            self._judge_cycles()
        except Violation as violation:
            history = self._history(*violation.at)
            return self._report(violation.kind, str(violation), history)
        return self._report()

    def _report(self, *found: Any) -> Report:
        spent = any(not any(state.left) for state in self._numbers)
        return Report(len(self._parents), self._ends, spent, *found)

    def _visit_all(self) -> None:
        first = self._first()
        self._numbers[first] = 0
        self._parents.append(first)
        self._judge(first, first)
        queue = deque([first])
        while queue:
            state = queue.popleft()
            onward = []
            for move in self._moves.of(state):
                to = move.to
                number = self._numbers.get(to)
                if number is None:
                    number = self._numbers[to] = len(self._parents)
                    self._parents.append(state)
                    queue.append(to)
                if move.wrong is not None:
                    self._found(*move.wrong, state, to)
                if to.store != state.store:
                    self._judge(state, to)
                if move.ordinary and to != state:
                    onward.append(number)
            self._ordinary.append(onward)
            if not onward:
                self._ends += 1
                self._judge_end(state)

    def _first(self) -> State:
        root = self._world.root
        submits = any(isinstance(process, Submitter) for process in self._world.processes)
        objects = {} if submits else {claim_of(name_of(root).stem, 0): seal(root)}
        where = tuple(steps.first for steps in self._moves.steps)
        return State(self._shelf.keep(objects), (), where, self._world.budget, 0, ())

    # -- invariants ----------------------------------------------------------------------

    def _found(self, kind: str, message: str, *at: State) -> None:
        """Note a violation in a state, or in going from one state to another."""
        if kind not in self._ignored:
            raise Violation(kind, message, at)

    def _judge(self, state: State, to: State) -> None:
        """Journals are sound, all readers agree, and a final word is final."""
        if (state.store, to.store) in self._judged:
            return
        self._judged.add((state.store, to.store))
        before, after = self._shelf.reading(state.store), self._shelf.reading(to.store)
        for kind, message in after.wrong.items():
            self._found(kind, message, state, to)
        misread = self._shelf.misread(to.store)
        if misread is not None:
            self._found("reader", misread, state, to)
        for index in range(len(self._world.root.tasks)):
            was = before.verdict(self._world.root.id, index)
            now = after.verdict(self._world.root.id, index)
            if was is not None and was != now:
                self._found("second word", f"task {index} was {was}, and is {now}", state, to)

    def _judge_end(self, state: State) -> None:
        """Nothing ordinary is left to happen: every task that was submitted is decided."""
        reading = self._shelf.reading(state.store)
        for index in range(len(self._world.root.tasks)):
            if reading.verdict(self._world.root.id, index) is None and self._submitted(state):
                self._found("lost", f"task {index} never gets its final word", state)

    def _submitted(self, state: State) -> bool:
        """Whether the batch is there, or its submitter ended well."""
        entry = claim_of(name_of(self._world.root).stem, 0)
        return entry in self._shelf.objects[state.store] or all(
            place != DEAD
            for process, place in zip(self._world.processes, state.where, strict=True)
            if isinstance(process, Submitter)
        )

    def _judge_cycles(self) -> None:
        """Ordinary moves do not go round, so whoever keeps moving gets to an end."""
        incoming = [0] * len(self._ordinary)
        for onward in self._ordinary:
            for number in onward:
                incoming[number] += 1
        free = [number for number, count in enumerate(incoming) if not count]
        while free:
            for number in self._ordinary[free.pop()]:
                incoming[number] -= 1
                if not incoming[number]:
                    free.append(number)
        if any(incoming):
            states = list(self._numbers)
            at = next(state for state, count in zip(states, incoming, strict=True) if count)
            self._found("cycle", "processes go round and round and get nowhere", at)

    # -- histories -----------------------------------------------------------------------

    def _history(self, state: State, to: State | None = None) -> tuple[str, ...]:
        lines = [] if to is None or to == state else [self._line(state, to)]
        while self._numbers[state]:
            parent = self._parents[self._numbers[state]]
            lines.append(self._line(parent, state))
            state = parent
        return tuple(text for text in reversed(lines) if text)

    def _line(self, state: State, to: State) -> str:
        move = next(move for move in self._moves.of(state) if move.to == to)
        return line(self._moves, state, move)
