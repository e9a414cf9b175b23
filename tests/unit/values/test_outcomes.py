from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cloudray import ids
from cloudray.context import Anchor
from cloudray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from cloudray.protocol.records import Verb
from cloudray.refs import ObjectRef
from cloudray.store.envelope import HEADER_BYTES
from cloudray.values import codec
from cloudray.values.codec import dumps
from cloudray.values.outcomes import (
    CANCELLED,
    DONE,
    FAILED,
    Outcome,
    error_payload,
    load,
    refs_of,
    settle,
    timed_out,
    value_of,
)

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 3)
ID = ids.object_id(BATCH, 5)


def done(value: object) -> Outcome:
    return Outcome(DONE, dumps(value).to_bytes(), ID)


def failed(error: BaseException) -> Outcome:
    return Outcome(FAILED, error_payload(error), ID)


def test_the_numbers_are_those_of_the_words_in_a_journal() -> None:
    assert (DONE, FAILED, CANCELLED) == (Verb.DONE, Verb.FAILED, Verb.CANCELLED)


def test_a_task_that_is_done_has_a_value() -> None:
    assert value_of(done({"a": 1})) == {"a": 1}
    assert not done(1).is_error


def test_a_large_value_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(bytes(HEADER_BYTES) + dumps([1, 2]).to_bytes())
    outcome = Outcome(DONE, codec.local(str(path)), ID)
    assert value_of(outcome) == [1, 2]
    assert load(outcome.payload) == [1, 2]


def test_what_a_task_raised_is_raised_as_what_it_was() -> None:
    outcome = failed(RayTaskError("f", "Traceback", KeyError("colour")))
    assert outcome.is_error
    with pytest.raises(KeyError) as raised:
        value_of(outcome)
    assert isinstance(raised.value, RayTaskError)
    assert repr(raised.value.cause) == "KeyError('colour')"


@pytest.mark.parametrize("error", [WorkerCrashedError(task_name="f"), ObjectLostError("0a1b")])
def test_what_became_of_a_task_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        value_of(failed(error))
    assert str(raised.value) == str(error)


def test_a_large_exception_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(bytes(HEADER_BYTES) + error_payload(WorkerCrashedError("it died")))
    with pytest.raises(WorkerCrashedError, match="it died"):
        value_of(Outcome(FAILED, codec.local(str(path)), ID))


def test_a_task_that_was_cancelled_raises_so() -> None:
    outcome = Outcome(CANCELLED, b"", ID)
    assert outcome.is_error
    with pytest.raises(TaskCancelledError) as raised:
        value_of(outcome)
    assert raised.value.task_id == ObjectRef(ID).task_id()


# -- futures -------------------------------------------------------------------------------


def test_a_future_ends_with_the_value() -> None:
    future: Future[Any] = Future()
    settle(future, done("value"))
    assert future.result(0) == "value"


def test_a_future_ends_with_the_error() -> None:
    future: Future[Any] = Future()
    settle(future, failed(RayTaskError("f", "Traceback", KeyError("colour"))))
    assert isinstance(future.exception(0), KeyError)


def test_a_value_that_cannot_be_unpickled_is_the_futures_error() -> None:
    future: Future[Any] = Future()
    settle(future, Outcome(DONE, b"\x80no pickle", ID))
    assert isinstance(future.exception(0), RaySystemError)
    assert f"{ID.hex()}) could not be unpickled in this process" in str(future.exception(0))


def test_a_future_that_nobody_wants_any_more_is_let_alone() -> None:
    future: Future[Any] = Future()
    future.cancel()
    settle(future, done("value"))
    assert future.cancelled()


# -- refs ----------------------------------------------------------------------------------


def test_a_call_returns_one_ref() -> None:
    assert refs_of(BATCH, 5, 1) == ObjectRef(ids.object_id(BATCH, 5, 0))


def test_a_call_with_several_returns_has_a_list_of_refs() -> None:
    assert refs_of(BATCH, 5, 3) == [ObjectRef(ids.object_id(BATCH, 5, n)) for n in range(3)]


def test_a_call_that_returns_nothing_has_no_ref() -> None:
    assert refs_of(BATCH, 5, 0) is None


@pytest.mark.parametrize("num_returns", [1, 2])
def test_refs_keep_their_batch_alive(num_returns: int) -> None:
    anchor = Anchor()
    refs = refs_of(BATCH, 5, num_returns, anchor)
    assert all(ref.anchor is anchor for ref in (refs if num_returns > 1 else [refs]))


def test_a_get_whose_time_is_up_names_what_it_waited_for() -> None:
    ref: ObjectRef[Any] = ObjectRef(ID)
    error = timed_out([ref], 0.5)
    assert isinstance(error, GetTimeoutError)
    assert error.pending == (repr(ref),)
    assert "After 0.5 s" in str(error)
