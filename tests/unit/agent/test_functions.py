from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.agent.functions import Functions, Kind, Lane, MissingFunctionError, demands_fit
from cloudray.agent.io import Io
from cloudray.protocol.records import Batch, seal
from cloudray.store import Counting, Ledger, MemoryStore, Put, Store, drive, envelope, layout
from tests.unit.agent.bench import JOB, batch_of, shape_of, store_job
from tests.unit.protocol.builders import PREFIX

BATCH = batch_of(2)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def store(ledger: Ledger) -> Store:
    return Counting(MemoryStore(), ledger)


@pytest.fixture
def functions(store: Store) -> Functions:
    return Functions(Io(store))


def test_a_function_is_read_with_its_job(functions: Functions, store: Store) -> None:
    store_job(store, BATCH)
    (known,) = drive(store, functions.read(BATCH, JOB.id))
    assert (known.shape, known.pickled) == (BATCH.shapes[0], b"f")
    assert functions.job(JOB.id) == JOB


def test_what_has_been_read_is_not_read_again(
    functions: Functions, store: Store, ledger: Ledger
) -> None:
    store_job(store, BATCH)
    assert functions.all_of(BATCH, JOB.id) is None
    first = drive(store, functions.read(BATCH, JOB.id))
    before = ledger.as_dict()
    again = functions.all_of(BATCH, JOB.id)
    assert again == first
    assert drive(store, functions.read(BATCH, JOB.id)) == first
    assert ledger.subtract(before) == Ledger()


def test_a_function_with_other_options_is_another_one_of_the_same_bytes(
    functions: Functions, store: Store, ledger: Ledger
) -> None:
    other = batch_of(1, shape_of(max_retries=7), number=1)
    store_job(store, BATCH)
    (first,) = drive(store, functions.read(BATCH, JOB.id))
    before = ledger.as_dict()
    (second,) = drive(store, functions.read(other, JOB.id))
    assert first != second
    assert second.shape.max_retries == 7
    assert ledger.subtract(before) == Ledger()


def test_a_function_of_another_job_is_another_one(functions: Functions, store: Store) -> None:
    prefix = ids.batch_prefix(7, b"other job.", b"submitter.")
    other = Batch(ids.batch_id(prefix, 0), BATCH.shapes, BATCH.tasks)
    for batch in (BATCH, other):
        store_job(store, batch)
    (first,) = drive(store, functions.read(BATCH, JOB.id))
    assert functions.all_of(other, b"other job.") is None
    (second,) = drive(store, functions.read(other, b"other job."))
    assert first.lane != second.lane


def test_a_lane_is_what_executors_and_slots_must_suit(functions: Functions, store: Store) -> None:
    shape = shape_of(cpus=2.0, env_vars={"B": "2", "A": "1"})
    batch = batch_of(1, shape)
    store_job(store, batch)
    (known,) = drive(store, functions.read(batch, JOB.id))
    assert known.lane == Lane(Kind(JOB.id, 7, (("A", "1"), ("B", "2"))), (("CPU", 20_000),))


def test_a_function_that_is_not_there_is_named(functions: Functions, store: Store) -> None:
    store.put(layout.meta(BATCH.id), seal(JOB))
    with pytest.raises(MissingFunctionError, match=r"the function f is not at .*/blobs/"):
        drive(store, functions.read(BATCH, JOB.id))


def test_a_job_that_is_not_there_is_named(functions: Functions, store: Store) -> None:
    with pytest.raises(MissingFunctionError, match=r"the job's record .*/meta is gone"):
        drive(store, functions.read(BATCH, JOB.id))


# -- functions of tasks --------------------------------------------------------------------


def test_a_task_s_function_is_stored_once(
    functions: Functions, store: Store, ledger: Ledger
) -> None:
    for _ in range(2):
        drive(store, functions.upload(PREFIX, JOB.id, "digest", b"pickled"))
    body = store.get(layout.blob(PREFIX, "digest"))
    assert body is not None
    assert bytes(envelope.open_sealed(envelope.Kind.BLOB, body, "")) == b"pickled"
    assert ledger.as_dict()["put"] == 1


def test_a_function_is_taken_for_stored_only_when_it_is(functions: Functions) -> None:
    first = functions.upload(PREFIX, JOB.id, "digest", b"pickled")
    assert isinstance(next(first), Put)
    # Another executor calls the same function while that is on its way.
    second = functions.upload(PREFIX, JOB.id, "digest", b"pickled")
    assert isinstance(next(second), Put)


@pytest.mark.parametrize(("cpus", "fits"), [(2.0, True), (2.5, False)])
def test_a_batch_fits_when_each_of_its_tasks_does(cpus: float, fits: bool) -> None:
    shapes = (shape_of(cpus=1.0), shape_of("g", cpus=cpus))
    batch = Batch(BATCH.id, shapes, BATCH.tasks)
    assert demands_fit(batch, {"CPU": 20_000}) is fits
