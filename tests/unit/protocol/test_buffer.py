from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol.batching import MAX_BATCH_BYTES
from cloudray.protocol.buffer import Linger, Prepared, SubmitBuffer
from cloudray.protocol.records import Batch, Parent, Shape
from cloudray.store import StoreError
from cloudray.store.layout import QueueName
from tests.unit.protocol.builders import BATCH_ID, PREFIX

PARENT = Parent(BATCH_ID, 3, 1, 0)


def prepared(
    name: str = "f", *, klass: str = "py311-cpu1-m0", priority: int = 5, once: bool = False
) -> Prepared:
    shape = Shape(f"hash of {name}", name, 1, {"CPU": 10_000}, 0 if once else 3)
    return Prepared(shape, klass, priority, once)


F = prepared("f")
G = prepared("g", klass="py311-cpu2-m0")
H = prepared("h", klass="py311-cpu4-m0")
ONCE = prepared("once", once=True)


class Shelf:
    """Where batches are stored, in order."""

    def __init__(self) -> None:
        self.stored: list[tuple[QueueName, Batch]] = []
        self.full = False
        #: what is raised then
        self.fill: type[Exception] = StoreError

    def store(self, name: QueueName, batch: Batch) -> None:
        if self.full:
            raise self.fill("the disk is full")
        self.stored.append((name, batch))

    @property
    def batches(self) -> list[Batch]:
        return [batch for _, batch in self.stored]

    @property
    def functions(self) -> list[list[str]]:
        """The names of the functions that each stored batch calls."""
        return [[batch.shapes[task.shape].name for task in batch.tasks] for batch in self.batches]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


Make = Callable[..., SubmitBuffer]


@pytest.fixture
def make(shelf: Shelf) -> Make:
    def make(
        limit: int = 1000, mean_us: float | None = None, parent: Parent | None = None
    ) -> SubmitBuffer:
        return SubmitBuffer(
            PREFIX,
            shelf.store,
            lambda _: limit,
            lambda _: mean_us,
            depth=0 if parent is None else 1,
            parent=parent,
        )

    return make


@pytest.fixture
def buffer(make: Make) -> SubmitBuffer:
    return make()


def add(
    buffer: SubmitBuffer,
    call: Prepared,
    *depends_on: bytes,
    contains: tuple[bytes, ...] = (),
    arguments: bytes = b"",
) -> bytes:
    """Submit a call; returns the id of its result."""
    return ids.object_id(*buffer.add(call, arguments, b"", depends_on, contains))


# -- what a batch is -----------------------------------------------------------------------


def test_a_call_waits_until_it_is_flushed(buffer: SubmitBuffer, shelf: Shelf) -> None:
    add(buffer, F)
    assert (len(buffer), shelf.stored) == (1, [])
    buffer.flush()
    assert (len(buffer), shelf.functions) == (0, [["f"]])


def test_calls_of_one_group_travel_together_in_order(buffer: SubmitBuffer, shelf: Shelf) -> None:
    for arguments in (b"1", b"2", b"3"):
        add(buffer, F, arguments=arguments)
    buffer.flush()
    (batch,) = shelf.batches
    assert [task.arguments for task in batch.tasks] == [b"1", b"2", b"3"]


def test_a_result_is_named_by_the_batch_and_index_of_its_call(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    refs = [add(buffer, F) for _ in range(3)]
    buffer.flush()
    (batch,) = shelf.batches
    assert refs == [ids.object_id(batch.id, index) for index in range(3)]


def test_functions_of_one_group_share_a_batch(buffer: SubmitBuffer, shelf: Shelf) -> None:
    other = prepared("other")
    for call in (F, other, F):
        add(buffer, call)
    buffer.flush()
    (batch,) = shelf.batches
    assert shelf.functions == [["f", "other", "f"]]
    assert batch.shapes == (F.shape, other.shape)


@pytest.mark.parametrize("other", [G, prepared("f", priority=0)])
def test_another_class_or_priority_is_another_batch(
    buffer: SubmitBuffer, shelf: Shelf, other: Prepared
) -> None:
    add(buffer, F)
    add(buffer, other)
    buffer.flush()
    assert [(name.klass, name.priority) for name, _ in shelf.stored] == [
        (F.klass, F.priority),
        (other.klass, other.priority),
    ]


def test_a_batch_knows_the_attempt_that_submits_it(make: Make, shelf: Shelf) -> None:
    buffer = make(parent=PARENT)
    add(buffer, F)
    buffer.flush()
    (batch,) = shelf.batches
    assert (batch.depth, batch.parent) == (1, PARENT)


def test_a_name_says_how_many_tasks_and_how_long_they_take(make: Make, shelf: Shelf) -> None:
    buffer = make(mean_us=2500.0)
    add(buffer, F)
    add(buffer, F)
    buffer.flush()
    ((name, batch),) = shelf.stored
    assert (name.batch, name.size, name.estimated_ms) == (batch.id, 2, 5)


def test_an_unmeasured_batch_has_no_estimate(buffer: SubmitBuffer, shelf: Shelf) -> None:
    add(buffer, F)
    buffer.flush()
    ((name, _),) = shelf.stored
    assert name.estimated_ms == 0


# -- ids -----------------------------------------------------------------------------------


def test_batches_and_values_are_numbered_together(buffer: SubmitBuffer, shelf: Shelf) -> None:
    add(buffer, F)
    value = buffer.next_id()
    add(buffer, G)
    buffer.flush()
    numbers = [ids.number_of(identifier) for identifier in [*[b.id for b in shelf.batches], value]]
    assert numbers == [0, 2, 1]
    assert all(batch.id.startswith(PREFIX) for batch in shelf.batches)


# -- when a batch is full ------------------------------------------------------------------


def test_a_full_batch_is_stored_at_once(make: Make, shelf: Shelf) -> None:
    buffer = make(limit=2)
    for _ in range(5):
        add(buffer, F)
    assert (shelf.functions, len(buffer)) == ([["f", "f"], ["f", "f"]], 1)


def test_long_tasks_travel_alone(make: Make, shelf: Shelf) -> None:
    buffer = make(limit=1)
    add(buffer, F)
    add(buffer, F)
    assert shelf.functions == [["f"], ["f"]]


def test_each_function_fills_its_share_of_a_batch(shelf: Shelf) -> None:
    limits = {F.shape.function: 4, "hash of other": 2}
    buffer = SubmitBuffer(PREFIX, shelf.store, limits.__getitem__, lambda _: None)
    other = prepared("other")
    for call in (F, F, other, F):
        add(buffer, call)
    assert (shelf.functions, len(buffer)) == ([["f", "f", "other"]], 1)


def test_thirds_make_a_whole(make: Make, shelf: Shelf) -> None:
    buffer = make(limit=3)
    for _ in range(3):
        add(buffer, F)
    assert shelf.functions == [["f", "f", "f"]]


def test_a_batch_is_full_when_its_arguments_are_large(buffer: SubmitBuffer, shelf: Shelf) -> None:
    add(buffer, F, arguments=bytes(MAX_BATCH_BYTES - 1))
    assert shelf.stored == []
    add(buffer, F, arguments=b"1")
    assert shelf.functions == [["f", "f"]]


def test_the_limit_is_asked_for_when_the_call_is_counted(shelf: Shelf) -> None:
    counted: list[int] = []

    def limit_of(function: str) -> int:
        counted.append(made.submitted[function])
        return 1000

    made = SubmitBuffer(PREFIX, shelf.store, limit_of, lambda _: None)
    add(made, F)
    add(made, F)
    assert counted == [1, 2]


def test_a_task_that_may_run_once_travels_alone_and_at_once(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    add(buffer, F)
    add(buffer, ONCE)
    assert (shelf.functions, len(buffer)) == ([["once"]], 1)
    assert shelf.batches[0].once


def test_it_leaves_the_open_batch_of_its_group_open(buffer: SubmitBuffer, shelf: Shelf) -> None:
    before = add(buffer, F)
    add(buffer, ONCE)
    after = add(buffer, F)
    assert before[: ids.BATCH_ID_BYTES] == after[: ids.BATCH_ID_BYTES]
    assert len(shelf.stored) == 1


# -- how long calls wait for company -------------------------------------------------------


def asked(*waiting: int) -> list[bool]:
    """What is said at each tick to so many waiting calls."""
    linger = Linger()
    return [linger.is_over(count) for count in waiting]


def test_calls_are_stored_when_no_more_of_them_come() -> None:
    assert asked(1, 5, 5) == [False, False, True]


def test_they_are_stored_after_a_while_however_many_come() -> None:
    assert asked(*range(1, 14)) == ([False] * 5 + [True]) * 2 + [False]


def test_nothing_is_not_waited_for() -> None:
    assert asked(0, 0, 3, 0, 3) == [False] * 5


def test_the_calls_after_those_that_were_stored_wait_anew() -> None:
    assert asked(2, 2, 2, 2) == [False, True, False, True]


# -- the order in which batches are stored -------------------------------------------------


def test_a_batch_is_stored_after_those_whose_results_it_needs(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    first = add(buffer, F)
    add(buffer, G, first)
    buffer.flush_for(add(buffer, G))
    assert shelf.functions == [["f"], ["g", "g"]]


def test_a_batch_is_stored_after_those_whose_refs_its_arguments_contain(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    first = add(buffer, F)
    buffer.flush_for(add(buffer, G, contains=(first,)))
    assert shelf.functions == [["f"], ["g"]]


def test_a_batch_that_is_opened_early_waits_for_what_it_needs_later(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    add(buffer, F)
    other = add(buffer, G)
    add(buffer, F, other)
    buffer.flush()
    assert shelf.functions == [["g"], ["f", "f"]]


def test_a_full_batch_takes_along_what_it_needs(make: Make, shelf: Shelf) -> None:
    buffer = make(limit=2)
    first = add(buffer, F)
    add(buffer, G, first)
    add(buffer, G)
    assert shelf.functions == [["f"], ["g", "g"]]


def test_a_task_that_may_run_once_takes_along_what_it_needs(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    add(buffer, ONCE, add(buffer, G))
    assert shelf.functions == [["g"], ["once"]]


def test_a_task_may_need_an_earlier_one_of_its_own_batch(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    add(buffer, F, add(buffer, F))
    buffer.flush()
    assert shelf.functions == [["f", "f"]]


def test_a_ref_that_would_close_a_cycle_flushes_the_batches_of_the_cycle(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    one = add(buffer, F)
    two = add(buffer, G, one)
    three = add(buffer, F, two)
    assert shelf.functions == [["f"], ["g"]]
    buffer.flush()
    assert shelf.functions == [["f"], ["g"], ["f"]]
    assert three[: ids.BATCH_ID_BYTES] == shelf.batches[2].id


def test_a_cycle_of_three_groups_is_cut_too(buffer: SubmitBuffer, shelf: Shelf) -> None:
    one = add(buffer, F)
    two = add(buffer, G, one)
    three = add(buffer, H, two)
    add(buffer, F, three)
    buffer.flush()
    assert shelf.functions == [["f"], ["g"], ["h"], ["f"]]


def test_a_ref_of_somebody_else_delays_nothing(buffer: SubmitBuffer, shelf: Shelf) -> None:
    add(buffer, F, ids.object_id(BATCH_ID[:-1] + b"\xff", 0))
    buffer.flush()
    assert shelf.functions == [["f"]]


def test_flushing_for_a_ref_stores_no_more_than_it_needs(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    first = add(buffer, F)
    add(buffer, G)
    buffer.flush_for(first)
    assert (shelf.functions, len(buffer)) == ([["f"]], 1)
    buffer.flush_for(first)
    assert shelf.functions == [["f"]]


def test_a_batch_that_could_not_be_stored_is_stored_by_the_next_flush(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    first = add(buffer, F)
    add(buffer, G, first)
    shelf.full = True
    with pytest.raises(StoreError):
        buffer.flush_for(first)
    shelf.full = False
    after = add(buffer, F)
    assert after[: ids.BATCH_ID_BYTES] != first[: ids.BATCH_ID_BYTES]
    buffer.flush()
    assert shelf.functions == [["f"], ["g"], ["f"]]


@pytest.mark.parametrize("call", [F, ONCE])
def test_a_call_that_there_is_no_room_for_was_never_made(
    shelf: Shelf, call: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = SubmitBuffer(PREFIX, shelf.store, lambda _: 3, lambda _: None)
    earlier = [add(buffer, F), add(buffer, F)]
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "fill", ObjectStoreFullError)
        shelf.full = True
        with pytest.raises(ObjectStoreFullError):
            add(buffer, call)
    shelf.full = False
    assert len(buffer) == 2
    buffer.flush()
    assert shelf.functions == [["f", "f"]]
    assert all(ref[: ids.BATCH_ID_BYTES] == shelf.batches[0].id for ref in earlier)


def test_what_fits_is_stored_although_something_else_does_not(
    buffer: SubmitBuffer, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(buffer, F)
    add(buffer, G)
    store = shelf.store

    def refuse_f(name: QueueName, batch: Batch) -> None:
        if batch.shapes[0].name == "f":
            raise ObjectStoreFullError("full")
        store(name, batch)

    monkeypatch.setattr(buffer, "_store", refuse_f)
    with pytest.raises(ObjectStoreFullError):
        buffer.flush()
    assert shelf.functions == [["g"]]
    assert len(buffer) == 1
    monkeypatch.undo()
    buffer.flush()
    assert shelf.functions == [["g"], ["f"]]


CALLS = st.sampled_from([F, G, H, prepared("low", priority=9), ONCE])
#: A call with refs to earlier results (counted from the newest), or a flush for one of them.
STEPS = st.lists(
    st.tuples(CALLS, st.lists(st.integers(0, 12), max_size=3), st.booleans()), max_size=40
)


@given(STEPS, st.integers(1, 6))
def test_no_stored_batch_ever_names_a_result_that_is_not_stored_before_it(
    steps: list[tuple[Prepared, list[int], bool]], limit: int
) -> None:
    stored: dict[bytes, Batch] = {}

    def store(name: QueueName, batch: Batch) -> None:
        assert name.batch == batch.id
        assert batch.id not in stored
        for index, task in enumerate(batch.tasks):
            for ref in (*task.depends_on, *task.contains):
                needed, at = ref[: ids.BATCH_ID_BYTES], ids.index_of(ref)
                assert needed in stored or (needed == batch.id and at < index)
        stored[batch.id] = batch

    buffer = SubmitBuffer(PREFIX, store, lambda _: limit, lambda _: None)
    refs: list[bytes] = []
    for call, needs, flush in steps:
        named = tuple(refs[-1 - need] for need in needs if need < len(refs))
        if flush and named:
            buffer.flush_for(named[0])
        refs.append(add(buffer, call, *named[:1], contains=named[1:]))
    buffer.flush()
    assert len(buffer) == 0
    assert len(set(refs)) == len(refs) == sum(len(batch.tasks) for batch in stored.values())
    for (call, _, _), ref in zip(steps, refs, strict=True):
        batch = stored[ref[: ids.BATCH_ID_BYTES]]
        assert batch.shapes[batch.tasks[ids.index_of(ref)].shape] == call.shape


def test_calls_that_ask_for_different_amounts_are_different_batches(
    buffer: SubmitBuffer, shelf: Shelf
) -> None:
    """So none is held up by a batchmate that no machine can run."""
    one, many = (
        msgspec.structs.replace(F, demand=(("CPU", 10_000), ("tea", units)))
        for units in (10_000, 90_000)
    )
    for call in (one, many, one):
        add(buffer, call)
    buffer.flush()
    assert [len(batch.tasks) for batch in shelf.batches] == [2, 1]
