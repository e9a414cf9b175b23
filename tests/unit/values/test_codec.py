from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids
from cloudray.exceptions import ObjectLostError
from cloudray.refs import ObjectRef
from cloudray.values import codec
from cloudray.values.codec import Buffer, Serialized, dumps, loads, loads_from
from tests.unit.recording import RecordingClient

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 3)
REF: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 0))
OTHER_REF: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 1))

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


class Wrapped:
    """A value that serializes another one while it is serialized itself."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return loads, (dumps(self.inner).to_bytes(),)


class Deep:
    def __reduce__(self) -> Any:
        raise RecursionError("maximum recursion depth exceeded")


def array_in(body: Buffer) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = loads(body)
    return array


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    serialized = dumps(value)
    body = serialized.to_bytes()
    assert serialized.size_bytes == len(body)
    assert loads(body) == value


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "text", b"bytes", [1], {"a": {1, 2}}])
def test_a_value_without_buffers_is_an_ordinary_pickle(value: object) -> None:
    assert pickle.loads(dumps(value).to_bytes()) == value


def test_a_function_that_pickle_cannot_name_comes_back() -> None:
    step = 3
    assert loads(dumps(lambda x: x + step).to_bytes())(4) == 7


# -- arrays --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_arrays_come_back_whatever_their_sizes(sizes: list[int]) -> None:
    arrays = [np.arange(size, dtype=np.uint8) for size in sizes]
    serialized = dumps(arrays)
    body = serialized.to_bytes()
    assert serialized.size_bytes == len(body)
    for before, after in zip(arrays, loads(body), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12)[::2],
        np.empty((0, 3)),
        np.array("text"),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["C", "Fortran", "stride", "empty", "scalar", "objects"],
)
def test_arrays_of_every_layout_come_back(array: np.ndarray[Any, Any]) -> None:
    after = array_in(dumps(array).to_bytes())
    np.testing.assert_array_equal(array, after)
    assert after.dtype == array.dtype


def test_serializing_an_array_does_not_copy_it() -> None:
    array = np.arange(1000)
    parts = dumps([array, array + 1]).parts
    views = [np.frombuffer(part, dtype=array.dtype) for part in parts if len(part) == 8000]
    assert [np.shares_memory(view, array) for view in views] == [True, False]


def test_an_array_that_was_read_is_a_read_only_view_of_the_body() -> None:
    body = dumps(np.arange(1000)).to_bytes()
    array = array_in(body)
    assert np.shares_memory(array, np.frombuffer(body, dtype=np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_body_that_could_be_written_gives_read_only_arrays_too() -> None:
    array = array_in(bytearray(dumps(np.arange(10)).to_bytes()))
    assert not array.flags.writeable


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_buffers_are_aligned_for_mapping(sizes: list[int]) -> None:
    body = dumps([np.arange(size, dtype=np.uint8) for size in sizes]).to_bytes()
    start = np.frombuffer(body, dtype=np.uint8).__array_interface__["data"][0]
    for array in loads(body):
        assert (array.__array_interface__["data"][0] - start) % 64 == 0


def test_an_array_in_a_file_is_mapped_behind_its_header(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(bytes(64) + dumps(np.arange(1000)).to_bytes())
    array = loads_from(str(path), 64)
    path.unlink()
    np.testing.assert_array_equal(array, np.arange(1000))
    assert not array.flags.writeable


def test_a_file_that_is_gone_is_a_lost_object(tmp_path: Path) -> None:
    with pytest.raises(ObjectLostError, match="freed when no ref to it was left") as raised:
        loads_from(str(tmp_path / "object"), 64)
    assert raised.value.__suppress_context__


def test_a_plain_value_in_a_file_is_read_behind_its_header(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(bytes(64) + dumps({"a": 1}).to_bytes())
    assert loads_from(str(path), 64) == {"a": 1}


# -- refs inside values --------------------------------------------------------------------


def test_a_serialized_value_names_the_refs_inside(client: RecordingClient) -> None:
    serialized = dumps([REF, {"other": OTHER_REF}])
    assert serialized.contains == (REF.id, OTHER_REF.id)
    assert loads(serialized.to_bytes()) == [REF, {"other": OTHER_REF}]
    assert client.escaped == []


def test_refs_beside_arrays_are_named_too() -> None:
    assert dumps([np.arange(3), REF]).contains == (REF.id,)


def test_a_value_without_refs_names_none() -> None:
    assert dumps([1, 2]).contains == ()


def test_refs_of_a_value_that_is_serialized_inside_another_are_not_mixed_up() -> None:
    assert dumps([REF, Wrapped([OTHER_REF])]).contains == (REF.id,)


# -- what cannot be serialized -------------------------------------------------------------


def test_the_member_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(TypeError, match=r"cannot pickle the result of f: its member \['lock'\]"):
        dumps({"lock": threading.Lock()}, "the result of f")


class Stubborn:
    def __reduce__(self) -> Any:
        raise KeyError("stubborn")


def test_what_the_users_code_raised_is_the_cause() -> None:
    with pytest.raises(TypeError) as raised:
        dumps([Stubborn()])
    assert isinstance(raised.value.__cause__, KeyError)


def test_what_only_pickle_says_is_no_cause() -> None:
    with pytest.raises(TypeError) as raised:
        dumps(threading.Lock())
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_value_that_is_nested_too_deeply_is_not_searched_for_a_culprit() -> None:
    with pytest.raises(pickle.PicklingError, match="cannot pickle value: it is nested too deeply"):
        dumps([Deep()])


# -- values elsewhere ----------------------------------------------------------------------


def test_a_value_that_is_stored_elsewhere_names_its_key() -> None:
    body = codec.stored("t7/jobs/job/objects/a", 123)
    assert codec.stored_key(body) == "t7/jobs/job/objects/a"
    assert codec.stored_key(memoryview(body)) == "t7/jobs/job/objects/a"
    assert codec.local_path(body) is None


def test_a_value_in_a_local_file_names_its_path() -> None:
    body = codec.local("/dev/shm/ä/file")
    assert codec.local_path(body) == "/dev/shm/ä/file"
    assert codec.local_path(memoryview(body)) == "/dev/shm/ä/file"
    assert codec.stored_key(body) is None


@pytest.mark.parametrize("value", [None, "F", b"S", [1], np.arange(3)])
def test_a_value_is_never_taken_for_one_that_is_elsewhere(value: object) -> None:
    body = dumps(value).to_bytes()
    assert (codec.stored_key(body), codec.local_path(body)) == (None, None)


def test_parts_are_joined_in_order() -> None:
    assert Serialized((b"one ", memoryview(b"two")), 7).to_bytes() == b"one two"
    assert Serialized((memoryview(b"one"),), 3).to_bytes() == b"one"
