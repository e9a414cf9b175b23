"""What may happen next in a state of a world.

What keeps the worlds small, and why nothing is missed:

- Steps that touch nothing shared (choices, running a task) commute with everything that others
  do, so while one is due, only that process moves.
- A process dies only where a write is due: dying at a read is dying after it, since a read
  changes nothing. A process that looks for work holds none, so its death is its idleness.
- A death at a create leaves the create in flight. That it was never sent is a put in flight that
  never lands; likewise for a create that failed and was not done. Every state is judged as if
  what flies never landed, and nothing has to be dropped for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from cloudray.store import layout
from cloudray.store.base import Delete
from tests.model.processes import (
    Agent,
    Choose,
    Execute,
    Know,
    Look,
    Process,
    Ring,
    Stray,
    Sweeper,
    Tell,
)
from tests.model.shelf import Shelf
from tests.model.steps import FAILED, Attempt, Steps
from tests.model.world import Budget, Target, World, named

#: Where a dead process stands.
DEAD = -1

_Alone = Choose | Execute | Ring | Know | Tell


class State(NamedTuple):
    """All there is to know of a world at one moment."""

    store: int
    #: creates under way, by key and body, that nobody waits for any more
    flying: tuple[tuple[str, bytes], ...]
    #: per process, where it stands
    where: tuple[int, ...]
    left: Budget
    #: how often tasks with `max_retries=0` ran
    ran: int
    #: stems and packed batches that a bell has told of
    rung: tuple[tuple[str, bytes], ...]


class Move(NamedTuple):
    """One thing that may happen next."""

    #: which process moves; -1 when a put in flight lands
    process: int
    what: str
    #: whether it takes no failure, no early takeover, and nobody's fancy
    ordinary: bool
    to: State
    #: kind and description of what it shows to be wrong
    wrong: tuple[str, str] | None = None


class Moves:
    """Computes the moves in the states of one world."""

    def __init__(self, world: World, *, overwrites: bool) -> None:
        self.world = world
        self.shelf = Shelf(world.root)
        self.steps = [Steps(process) for process in world.processes]
        #: planted mistake: a create replaces what is there
        self._overwrites = overwrites
        self._agents = {
            process.tag: number
            for number, process in enumerate(world.processes)
            if isinstance(process, Agent)
        }
        #: whether claims may be deleted, so that a number may be free again
        self._forgets = any(
            isinstance(process, Sweeper) or (isinstance(process, Agent) and process.forgets)
            for process in world.processes
        )

    def of(self, state: State) -> Iterator[Move]:
        """All moves in a state."""
        due = [
            None if place == DEAD else steps.due[place]
            for steps, place in zip(self.steps, state.where, strict=True)
        ]
        for number, step in enumerate(due):
            if isinstance(step, _Alone):
                yield from self._alone(state, number, step)
                return
        for number, step in enumerate(due):
            if step is not None and self._may_act(state, self.world.processes[number]):
                yield from self._shared(state, number, step)
        objects = self.shelf.objects[state.store]
        for put in state.flying:
            if self._overwrites or put[0] not in objects:
                rest = tuple(other for other in state.flying if other is not put)
                landed = state._replace(store=self.shelf.put(state.store, *put), flying=rest)
                yield Move(-1, put[0], ordinary=False, to=self._tidy(landed))

    def _may_act(self, state: State, process: Process) -> bool:
        return not process.reserve or all(
            state.where[number] == DEAD
            for number in self._agents.values()
            if not self.world.processes[number].reserve
        )

    # -- steps that others do not see ----------------------------------------------------

    def _alone(self, state: State, number: int, step: _Alone) -> Iterator[Move]:
        match step:
            case Choose():
                yield from self._choices(state, number, step)
            case Execute():
                yield from self._runs(state, number, step)
            case Ring():
                rung = tuple(sorted({*state.rung, (step.name.stem, step.packed)}))
                told = state._replace(rung=rung)
                yield Move(number, "", ordinary=True, to=self._after(told, number, None))
            case Know():
                truth = self.shelf.decided(state.store, step.batch)
                wrong = [(i, word, truth.get(i)) for i, word in step.decided]
                wrong = [line for line in wrong if line[1] != line[2]]
                yield self._statement(state, number, "belief", wrong)
            case Tell():
                verdict = self.shelf.reading(state.store).verdict(step.batch, step.index)
                wrong = [(step.index, step.word, verdict)] if step.word != verdict else []
                yield self._statement(state, number, "reader", wrong)

    def _choices(self, state: State, number: int, step: Choose) -> Iterator[Move]:
        first, *others = step.options
        yield Move(number, first, ordinary=True, to=self._after(state, number, first))
        for option in others:
            if getattr(state.left, option):
                chosen = state._replace(left=state.left.less(option))
                yield Move(number, option, ordinary=False, to=self._after(chosen, number, option))

    def _runs(self, state: State, number: int, step: Execute) -> Iterator[Move]:
        ran = state._replace(ran=state.ran + step.once)
        wrong = ("twice", "a task with max_retries=0 ran twice") if ran.ran > 1 else None
        yield Move(number, "", ordinary=True, to=self._after(ran, number, True), wrong=wrong)
        if state.left.deaths:
            died = ran._replace(left=state.left.less("deaths"))
            to = self._after(died, number, False)
            yield Move(number, "its executor dies", ordinary=False, to=to, wrong=wrong)

    def _statement(self, state: State, number: int, kind: str, wrong: list[Any]) -> Move:
        after = self._after(state, number, None)
        lines = [f"task {i} is taken for {word}, and is {truth}" for i, word, truth in wrong]
        found = (kind, "; ".join(lines)) if lines else None
        return Move(number, "", ordinary=True, to=after, wrong=found)

    # -- steps that meet in the store ----------------------------------------------------

    def _shared(self, state: State, number: int, step: Any) -> Iterator[Move]:
        match step:
            case Attempt():
                yield from self._attempts(state, number, step)
            case Delete():
                yield from self._deletes(state, number, step)
            case Look():
                yield from self._looks(state, number, step)
            case Stray():
                for stray in self.shelf.strays(state.store):
                    yield Move(number, "", ordinary=False, to=self._after(state, number, stray))
            case _:
                answer = self.shelf.answer(state.store, step)
                yield Move(number, "", ordinary=True, to=self._after(state, number, answer))

    def _attempts(self, state: State, number: int, step: Attempt) -> Iterator[Move]:
        key, body, first = step
        objects = self.shelf.objects[state.store]
        if first and (objects.get(key) == body or (key, body) in state.flying):
            message = f"the model is wrong: two writes of {key} have one nonce"
            raise AssertionError(message)
        yes = self._overwrites or key not in objects
        written = flown = state
        if yes:
            put = state._replace(store=self.shelf.put(state.store, key, body))
            written = self._tidy(put)
        if (key, body) not in state.flying:
            flying = tuple(sorted((*state.flying, (key, body))))
            flown = self._tidy(state._replace(flying=flying))
        to = self._after(written, number, yes)
        yield Move(number, "yes" if yes else "no", ordinary=True, to=to)
        if state.left.losses:
            left = state.left.less("losses")
            for answer in (FAILED, False) if self.world.lies else (FAILED,):
                heard = "no answer" if answer is FAILED else "a false no"
                for what, outcome in (("written", written), ("delayed", flown)):
                    if outcome is not state or answer is FAILED:
                        to = self._after(outcome._replace(left=left), number, answer)
                        yield Move(number, f"{what}, {heard}", ordinary=False, to=to)
        if self._may_die(state, number):
            yield self._death(flown, number, "dies with it in flight")

    def _deletes(self, state: State, number: int, step: Delete) -> Iterator[Move]:
        objects = self.shelf.objects[state.store]
        wrong = None
        for key in step.keys:
            stem, _, claim = key.rpartition(".")
            if claim == "0" and key in objects:
                decided = len(self.shelf.decided(state.store, named(stem).batch))
                if decided != named(stem).size:
                    wrong = ("unfinished", f"an entry is deleted with {decided} tasks decided")
        gone = state._replace(store=self.shelf.delete(state.store, step.keys))
        to = self._after(gone, number, None)
        yield Move(number, "", ordinary=True, to=to, wrong=wrong)
        if self._may_die(state, number):
            yield self._death(state, number, "dies before it")

    def _looks(self, state: State, number: int, step: Look) -> Iterator[Move]:
        me = self.world.processes[number].tag
        for target in self.shelf.targets(state.store):
            holder = target.holder
            free = not holder or state.where[self._agents[holder]] == DEAD
            if holder == me or not (free or state.left.takeovers):
                continue
            left = state.left if free else state.left.less("takeovers")
            to = self._after(state._replace(left=left), number, target)
            held = f", held by {holder}" if holder else ""
            yield Move(number, f"finds {target.name.stem}{held}", ordinary=free, to=to)
        for stem, packed in state.rung:
            if stem not in step.heard:
                for carried, how in ((packed, "is sent"), (None, "hears of")):
                    answer = Target(named(stem), 1, carried=carried)
                    to = self._after(state, number, answer)
                    yield Move(number, f"{how} {stem}", ordinary=True, to=to)

    # -- states --------------------------------------------------------------------------

    def _after(self, state: State, number: int, answer: Any) -> State:
        place = self.steps[number].after(state.where[number], answer)
        return state._replace(where=_with(state.where, number, place))

    def _may_die(self, state: State, number: int) -> bool:
        return state.left.crashes > 0 and self.world.processes[number].mortal

    def _death(self, state: State, number: int, what: str) -> Move:
        dead = state._replace(
            where=_with(state.where, number, DEAD), left=state.left.less("crashes")
        )
        return Move(number, what, ordinary=False, to=dead)

    def _tidy(self, state: State) -> State:
        """Forget what flies to a key that is taken for good: it cannot land."""
        if not state.flying or self._overwrites:
            return state
        objects = self.shelf.objects[state.store]
        flying = tuple(put for put in state.flying if put[0] not in objects or self._goes(put[0]))
        return state._replace(flying=flying)

    def _goes(self, key: str) -> bool:
        return key.startswith(layout.QUEUE) and (self._forgets or key.endswith(".0"))


def _with(where: tuple[int, ...], number: int, place: int) -> tuple[int, ...]:
    return (*where[:number], place, *where[number + 1 :])
