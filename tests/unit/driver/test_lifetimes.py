"""What is freed, and when: one case at a time, then random programs over delayed streams."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgspec
import pytest

from cloudray import ids
from cloudray.context import Anchors
from cloudray.driver.lifetimes import Lifetimes
from cloudray.executor.handles import Handles
from cloudray.protocol import messages as m
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Entry, Verb, Word
from cloudray.refs import ObjectRef
from cloudray.store import layout
from cloudray.values import codec

DRIVER = ids.batch_prefix(7, b"job.......", b"driver....")
TASK = ids.batch_prefix(7, b"job.......", b"task......")


def unit(number: int, prefix: bytes = DRIVER) -> bytes:
    return ids.batch_id(prefix, number)


def freed(lifetimes: Lifetimes) -> set[str]:
    return set(lifetimes.take_free(0.0, 0.0))


@pytest.fixture
def lifetimes() -> Lifetimes:
    return Lifetimes()


def put(lifetimes: Lifetimes, number: int, *contains: bytes) -> bytes:
    """A value that the driver has stored, and holds."""
    lifetimes.hold(unit(number))
    lifetimes.stored(unit(number), f"object{number}", contains)
    return unit(number)


def test_a_value_is_freed_with_its_last_ref(lifetimes: Lifetimes) -> None:
    value = put(lifetimes, 1)
    assert freed(lifetimes) == set()
    lifetimes.let_go(value)
    assert freed(lifetimes) == {"object1"}
    assert len(lifetimes) == 0


def test_a_value_stays_while_another_contains_it(lifetimes: Lifetimes) -> None:
    inner = put(lifetimes, 1)
    outer = put(lifetimes, 2, inner)
    lifetimes.let_go(inner)
    assert freed(lifetimes) == set()
    lifetimes.let_go(outer)
    assert freed(lifetimes) == {"object1", "object2"}


def test_an_argument_stays_until_the_batch_is_finished(lifetimes: Lifetimes) -> None:
    value = put(lifetimes, 1)
    lifetimes.hold(unit(2))
    lifetimes.submitted(unit(2), (value,), ())
    lifetimes.let_go(value)
    assert freed(lifetimes) == set()
    lifetimes.finished(unit(2), 1)
    assert freed(lifetimes) == {"object1"}


def test_a_large_argument_goes_with_its_task_not_with_the_batch(lifetimes: Lifetimes) -> None:
    first, second = put(lifetimes, 1), put(lifetimes, 2)
    lifetimes.own(unit(3))
    lifetimes.passed(unit(3), 0, first)
    lifetimes.passed(unit(3), 1, second)
    lifetimes.let_go(first)
    lifetimes.let_go(second)
    lifetimes.ended(unit(3), [Word(0, Verb.STARTED), Word(1, Verb.DONE, (b"inline",))])
    assert freed(lifetimes) == {"object2"}
    lifetimes.finished(unit(3), 0)
    assert freed(lifetimes) == {"object1"}


def test_a_batch_that_nobody_waits_for_is_freed_when_it_is_finished(lifetimes: Lifetimes) -> None:
    lifetimes.own(unit(1))
    lifetimes.valued(unit(1), (), {"result": ids.object_id(unit(1), 0)})
    assert freed(lifetimes) == set()
    lifetimes.finished(unit(1), 0)
    assert freed(lifetimes) == {"result"}


def test_a_journal_stays_for_a_while_after_its_batch(lifetimes: Lifetimes) -> None:
    lifetimes.own(unit(1))
    lifetimes.finished(unit(1), 2)
    assert lifetimes.take_free(10.0, 4.0) == ()
    assert lifetimes.restless
    assert lifetimes.take_free(13.9, 4.0) == ()
    journal = layout.journal(unit(1))
    assert lifetimes.take_free(14.0, 4.0) == (f"{journal}0", f"{journal}1")
    assert not lifetimes.restless


def test_one_large_value_of_a_batch_goes_before_the_others(lifetimes: Lifetimes) -> None:
    first, second = ids.object_id(unit(1), 0), ids.object_id(unit(1), 1)
    lifetimes.hold(unit(1))
    lifetimes.own(unit(1))
    lifetimes.valued(unit(1), (), {"first": first, "second": second})
    lifetimes.free_values(unit(1), {first})
    assert freed(lifetimes) == {"first"}
    assert lifetimes.with_objects == [unit(1)]


def test_a_large_value_stays_while_anybody_else_has_a_ref_to_its_batch(
    lifetimes: Lifetimes,
) -> None:
    first = ids.object_id(unit(1), 0)
    lifetimes.hold(unit(1))
    lifetimes.own(unit(1))
    lifetimes.valued(unit(1), (), {"first": first})
    lifetimes.handled("w", (unit(1),), (), ())
    lifetimes.free_values(unit(1), {first})
    assert freed(lifetimes) == set()


def test_a_large_value_stays_while_its_own_batch_may_need_it(lifetimes: Lifetimes) -> None:
    first = ids.object_id(unit(1), 0)
    lifetimes.hold(unit(1))
    lifetimes.submitted(unit(1), (first,), ())
    lifetimes.valued(unit(1), (), {"first": first})
    lifetimes.free_values(unit(1), {first})
    assert freed(lifetimes) == set()
    lifetimes.finished(unit(1), 1)
    lifetimes.free_values(unit(1), {first})
    assert "first" in freed(lifetimes)


def test_a_large_value_stays_while_another_of_its_batch_contains_its_ref(
    lifetimes: Lifetimes,
) -> None:
    first, second = ids.object_id(unit(1), 0), ids.object_id(unit(1), 1)
    lifetimes.hold(unit(1))
    lifetimes.own(unit(1))
    lifetimes.valued(unit(1), (), {"first": first})
    lifetimes.valued(unit(1), (unit(1),), {"second": second})
    lifetimes.finished(unit(1), 0)
    lifetimes.free_values(unit(1), {first})
    assert freed(lifetimes) == set()
    lifetimes.let_go(unit(1))
    assert freed(lifetimes) == {"first", "second"}


def test_a_large_argument_stays_until_its_cancelled_task_has_come_back(
    lifetimes: Lifetimes,
) -> None:
    value = put(lifetimes, 1)
    lifetimes.own(unit(2))
    lifetimes.passed(unit(2), 0, value)
    lifetimes.let_go(value)
    lifetimes.ended(unit(2), [Word(0, Verb.CANCELLED), Word(0, Verb.FAILED, (b"late",), -1)])
    assert freed(lifetimes) == set()
    lifetimes.finished(unit(2), 0)
    assert freed(lifetimes) == {"object1"}


def test_a_batch_that_found_no_room_is_forgotten_unless_something_needs_it(
    lifetimes: Lifetimes,
) -> None:
    value = put(lifetimes, 1)
    lifetimes.own(unit(2))
    lifetimes.submitted(unit(3), (value,), ())
    for batch in (2, 3):
        lifetimes.disown(unit(batch))
    assert unit(2) not in lifetimes
    # It is tried again, and its tasks name the value.
    assert unit(3) in lifetimes
    lifetimes.let_go(value)
    assert freed(lifetimes) == set()


def test_what_an_executor_holds_stays_until_it_lets_go(lifetimes: Lifetimes) -> None:
    value = put(lifetimes, 1)
    lifetimes.handled("w", (value,), (), ())
    lifetimes.let_go(value)
    assert freed(lifetimes) == set()
    lifetimes.handled("w", (), (value,), ())
    assert freed(lifetimes) == {"object1"}


def test_what_an_executor_holds_goes_when_it_ends(lifetimes: Lifetimes) -> None:
    stored = unit(1, TASK)
    lifetimes.kept(stored, "w", held=True, contains=())
    assert freed(lifetimes) == set()
    lifetimes.left("w")
    assert freed(lifetimes) == {layout.put_object(ids.object_id(stored, ids.PUT_INDEX))}


def test_a_ref_that_arrives_before_news_of_its_value_frees_nothing(lifetimes: Lifetimes) -> None:
    stored = unit(1, TASK)
    lifetimes.hold(stored)
    lifetimes.let_go(stored)
    assert freed(lifetimes) == set()
    lifetimes.kept(stored, "w", held=True, contains=())
    assert freed(lifetimes) == set()


def test_what_got_out_of_sight_is_kept_for_good(lifetimes: Lifetimes) -> None:
    value = put(lifetimes, 1)
    lifetimes.pin(value)
    lifetimes.let_go(value)
    assert freed(lifetimes) == set()


def test_after_an_agents_death_what_executors_may_have_known_is_kept(lifetimes: Lifetimes) -> None:
    known = put(lifetimes, 1)
    unknown = put(lifetimes, 2)
    lifetimes.handled("w", (known,), (), ())
    lifetimes.agent_lost()
    lifetimes.let_go(known)
    lifetimes.let_go(unknown)
    assert freed(lifetimes) == {"object2"}


def test_after_an_agents_death_the_driver_reads_itself_that_a_batch_is_over(
    lifetimes: Lifetimes,
) -> None:
    value = put(lifetimes, 1)
    lifetimes.submitted(unit(2), (value,), ())
    lifetimes.let_go(value)
    lifetimes.agent_lost()
    journal = Journal(unit(2), 1)
    journal.apply(Entry(1, (Word(0, Verb.DONE, (codec.stored("result", 9),)),)))
    lifetimes.read(journal)
    assert freed(lifetimes) >= {"object1", "result"}


def test_a_complete_journal_alone_frees_nothing(lifetimes: Lifetimes) -> None:
    value = put(lifetimes, 1)
    lifetimes.submitted(unit(2), (value,), ())
    lifetimes.let_go(value)
    journal = Journal(unit(2), 1)
    journal.apply(Entry(1, (Word(0, Verb.DONE, (b"inline",)),)))
    # Its executor may have kept the ref, and that word is still on its way.
    lifetimes.read(journal)
    assert freed(lifetimes) == set()


# -- random programs -----------------------------------------------------------------------


class Value(msgspec.Struct):
    """What a unit's bytes are: refs to other units."""

    contains: tuple[bytes, ...]


class Process:
    """A driver or an executor: it has refs, with real anchors, and does things with them."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.refs: list[ObjectRef[Any]] = []
        self.prefix = ids.batch_prefix(7, b"job.......", name.encode().ljust(10, b"."))
        self.number = 0

    def next_id(self) -> bytes:
        self.number += 1
        return ids.object_id(unit(self.number, self.prefix), ids.PUT_INDEX)

    def some_refs(self, rng: random.Random) -> list[ObjectRef[Any]]:
        return rng.sample(self.refs, min(len(self.refs), rng.randint(0, 2)))

    def get(self, ref: ObjectRef[Any]) -> None:
        """Read a value: that makes refs of those inside it."""
        self.refs += [self.ref(inner) for inner in self.world.read(ids.unit_of(ref.id)).contains]

    def drop(self, rng: random.Random) -> None:
        if self.refs:
            del self.refs[rng.randrange(len(self.refs))]

    def ref(self, identifier: bytes) -> ObjectRef[Any]:
        raise NotImplementedError


class Driver(Process):
    """Counts with the real `Lifetimes`, as `DriverClient` does."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "driver")
        self.lifetimes = Lifetimes()
        self.anchors = Anchors()

    def ref(self, identifier: bytes) -> ObjectRef[Any]:
        key = ids.unit_of(identifier)
        anchor = self.anchors.find(key)
        if anchor is None:
            anchor = self.anchors.make(key)
            self.lifetimes.hold(key)
        return ObjectRef(identifier, anchor)

    def put(self, rng: random.Random) -> None:
        inner = self.some_refs(rng)
        identifier = self.next_id()
        ref = self.ref(identifier)
        contains = tuple(one.id for one in inner)
        self.world.write(ids.unit_of(identifier), contains)
        self.lifetimes.stored(ids.unit_of(identifier), identifier.hex(), contains)
        self.refs.append(ref)

    def submit(self, rng: random.Random) -> None:
        """A task with refs inside its arguments."""
        inner = self.some_refs(rng)
        identifier = self.next_id()
        contains = tuple(one.id for one in inner)
        ref = self.ref(identifier)
        self.lifetimes.submitted(ids.unit_of(identifier), contains, contains)
        self.world.queue(identifier, contains)
        if rng.random() < 0.8:
            self.refs.append(ref)

    def collect(self) -> None:
        """Free what may be freed, as the background thread does now and then."""
        for gone in self.anchors.take_gone():
            self.lifetimes.let_go(gone)
        for key in self.lifetimes.take_free(0.0, 0.0):
            self.world.free(key)


class Executor(Process):
    """Tells with the real `Handles`, as `ExecutorClient` and `Executor` do."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.handles = Handles()
        self.running: tuple[bytes, tuple[bytes, ...]] | None = None
        #: what the running task has that goes with it; its process may also keep refs for good
        self.kept: list[ObjectRef[Any]] = []
        self.outbox: deque[m.Message] = deque()
        #: tasks that the agent has not been told of yet
        self.submitted: deque[tuple[bytes, tuple[bytes, ...]]] = deque()

    def ref(self, identifier: bytes) -> ObjectRef[Any]:
        return ObjectRef(identifier, self.handles.anchor(identifier))

    def start(self, task: tuple[bytes, tuple[bytes, ...]]) -> None:
        self.running = task
        self.refs = [self.ref(inner) for inner in task[1]]

    def put(self, rng: random.Random) -> None:
        if self.handles.has_dropped:
            self.tell()
        inner = self.some_refs(rng)
        identifier = self.next_id()
        ref = self.ref(identifier)
        self.handles.kept(identifier)
        contains = tuple(one.id for one in inner)
        self.world.write(ids.unit_of(identifier), contains)
        self.outbox.append(m.Keep(identifier, "", contains))
        self.refs.append(ref)

    def submit(self, rng: random.Random) -> None:
        inner = self.some_refs(rng)
        identifier = self.next_id()
        batch = ids.unit_of(identifier)
        alone = rng.random() < 0.5
        held = False
        if alone:
            # It leaves before there is a ref to it.
            held = self.handles.begun(batch, adding=True)
            anchor = self.handles.submitting(batch, is_open=False)
        else:
            anchor = self.handles.submitting(batch, is_open=True)
        ref: ObjectRef[Any] = ObjectRef(identifier, anchor)
        if rng.random() < 0.8:
            self.refs.append(ref)
        else:
            del ref
        del anchor
        contains = tuple(one.id for one in inner)
        if not alone:
            held = self.handles.begun(batch, adding=False)
        self.outbox.append(m.Begun(ids.unit_of(identifier), self.name, held, contains))
        self.submitted.append((identifier, contains))

    def tell(self) -> None:
        dropped = self.handles.take_dropped()
        taken, pinned = self.handles.take_fresh()
        if taken or dropped or pinned:
            self.outbox.append(m.Handles(taken, dropped, pinned))

    def end(self, rng: random.Random) -> None:
        """The task returns some of its refs, and may leave others in a global of the process."""
        assert self.running is not None
        identifier, _ = self.running
        returned = self.some_refs(rng)
        if rng.random() < 0.3:
            self.kept = self.some_refs(rng)
        self.refs = list(returned)
        if self.handles.restless:
            self.tell()
        contains = tuple(ref.id for ref in returned)
        self.world.write(ids.unit_of(identifier), contains)
        self.outbox.append(m.Outcomes((m.Outcome(0, Verb.DONE, (), 0, contains),)))
        self.world.over[self.name].append(identifier)
        self.running = None
        self.refs, returned = [], []
        if self.handles.has_dropped:
            self.tell()


class Hasty(Executor):
    """Says that it has let go of refs before it says that its task has returned them."""

    def end(self, rng: random.Random) -> None:
        kept, self.refs = self.refs, []
        returned = tuple(ref.id for ref in kept[:1])
        kept.clear()
        self.tell()
        assert self.running is not None
        identifier, _ = self.running
        self.world.write(ids.unit_of(identifier), returned)
        self.outbox.append(m.Outcomes((m.Outcome(0, Verb.DONE, (), 0, returned),)))
        self.world.over[self.name].append(identifier)
        self.running = None


class Silent(Executor):
    """Keeps refs without telling anybody."""

    def tell(self) -> None:
        self.handles.take_dropped()


class World:
    """One driver, an agent that relays, and executors; every stream is delayed at will."""

    def __init__(self, seed: int, kind: type[Executor] = Executor) -> None:
        self.rng = random.Random(seed)
        self.values: dict[bytes, Value] = {}
        self.freed: set[bytes] = set()
        self.tasks: deque[tuple[bytes, tuple[bytes, ...]]] = deque()
        self.over: dict[str, deque[bytes]] = {}
        self.to_driver: deque[m.Message] = deque()
        self.driver = Driver(self)
        self.executors = [kind(self, f"executor{number}") for number in range(2)]
        for executor in self.executors:
            self.over[executor.name] = deque()

    def read(self, key: bytes) -> Value:
        assert key not in self.freed, "something that is still named was freed"
        return self.values.get(key, Value(()))

    def write(self, key: bytes, contains: tuple[bytes, ...]) -> None:
        assert key not in self.freed, "freed before its task ended"
        for inner in contains:
            content = ids.unit_of(inner)
            assert content not in self.freed, "the content was freed before the container"
        self.values[key] = Value(contains)

    def queue(self, identifier: bytes, contains: tuple[bytes, ...]) -> None:
        self.tasks.append((identifier, contains))

    def free(self, key: str) -> None:
        """An object's key, or a journal entry's: find the unit, and check that nobody names it."""
        gone = self.unit_behind(key)
        self.freed.add(gone)
        for process in (self.driver, *self.executors):
            refs = [*process.refs, *getattr(process, "kept", ())]
            assert gone not in {ids.unit_of(ref.id) for ref in refs}, "a ref is left"
        for identifier, contains in self.unfinished():
            assert gone != ids.unit_of(identifier), "a task is not over"
            assert gone not in {ids.unit_of(one) for one in contains}, "a task names it"

    def unit_behind(self, key: str) -> bytes:
        for known in self.values:
            ref = ids.object_id(known, ids.PUT_INDEX)
            if key in (ref.hex(), layout.put_object(ref)) or key.startswith(layout.journal(known)):
                return known
        raise AssertionError(f"{key} was freed, and nobody knows it")

    def unfinished(self) -> list[tuple[bytes, tuple[bytes, ...]]]:
        running = [one.running for one in self.executors if one.running is not None]
        unsent = [task for one in self.executors for task in one.submitted]
        return [*self.tasks, *running, *unsent]

    def relay(self, executor: Executor) -> None:
        """The agent handles the next message of an executor, and tells the driver."""
        if not executor.outbox:
            return
        message = executor.outbox.popleft()
        if isinstance(message, m.Keep):
            contains = tuple(ids.unit_of(one) for one in message.contains)
            kept = m.Kept(ids.unit_of(message.identifier), executor.name, True, contains)
            self.to_driver.append(kept)
        elif isinstance(message, m.Handles):
            handled = m.Handled(executor.name, message.taken, message.dropped, message.pinned)
            self.to_driver.append(handled)
        elif isinstance(message, m.Outcomes):
            batch = ids.unit_of(self.over[executor.name].popleft())
            (outcome,) = message.outcomes
            if outcome.contains:
                inner = tuple(ids.unit_of(one) for one in outcome.contains)
                self.to_driver.append(m.Valued(batch, inner))
            self.to_driver.append(m.Published(batch, 1, None, complete=True))
        else:
            self.to_driver.append(message)
            self.tasks.append(executor.submitted.popleft())

    def hear(self) -> None:
        if self.to_driver:
            message = self.to_driver.popleft()
            if isinstance(message, m.Published):
                self.driver.lifetimes.finished(message.batch, message.next)
            else:
                self.driver.lifetimes.hear(message)

    def step(self) -> None:
        rng = self.rng
        executor = rng.choice(self.executors)
        process: Driver | Executor = self.driver if rng.random() < 0.5 else executor
        if isinstance(process, Executor) and process.running is None:
            if self.tasks and rng.random() < 0.5:
                process.start(self.tasks.popleft())
            return
        act = rng.random()
        if act < 0.2:
            process.put(rng)
        elif act < 0.4:
            process.submit(rng)
        elif act < 0.6 and process.refs:
            ready = [ref for ref in process.refs if ids.unit_of(ref.id) in self.values]
            if ready:
                process.get(rng.choice(ready))
        elif act < 0.9 or isinstance(process, Driver):
            process.drop(rng)
        else:
            process.end(rng)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            chance = self.rng.random()
            if chance < 0.5:
                self.step()
            elif chance < 0.7:
                self.relay(self.rng.choice(self.executors))
            elif chance < 0.9:
                self.hear()
            else:
                self.driver.collect()

    def wind_down(self) -> None:
        """Run what is left, let go of everything, and deliver every word."""
        while self.unfinished():
            for executor in self.executors:
                if executor.running is None and self.tasks:
                    executor.start(self.tasks.popleft())
                if executor.running is not None:
                    executor.end(self.rng)
                while executor.outbox:
                    self.relay(executor)
        self.driver.refs = []
        for executor in self.executors:
            executor.kept = []
            executor.tell()
            while executor.outbox:
                self.relay(executor)
        while self.to_driver:
            self.hear()
        self.driver.collect()
        self.driver.collect()


@pytest.mark.parametrize("seed", range(200))
def test_nothing_that_is_named_is_freed_and_all_else_is(seed: int) -> None:
    world = World(seed)
    world.run(400)
    world.wind_down()
    assert len(world.driver.lifetimes) == 0
    assert world.freed == set(world.values)


@pytest.mark.parametrize("kind", [Hasty, Silent])
def test_the_random_programs_find_executors_that_tell_too_early_or_nothing(
    kind: type[Executor],
) -> None:
    with pytest.raises(AssertionError, match=r"freed|ref is left|names it"):  # noqa: PT012
        for seed in range(200):
            World(seed, kind).run(400)


def test_the_random_programs_free_much_while_they_run() -> None:
    ran = [World(seed) for seed in range(20)]
    for world in ran:
        world.run(400)
    assert sum(len(world.freed) for world in ran) > 200
