from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids
from cloudray.refs import ObjectRef
from cloudray.values.arguments import Placeholder, fill, pack_arguments, unpack_arguments
from tests.unit.recording import RecordingClient

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 3)
ONE: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 1))
TWO: ObjectRef[Any] = ObjectRef(ids.object_id(BATCH, 2))


def round_trip(*args: Any, values: tuple[Any, ...] = (), **kwargs: Any) -> Any:
    packed, _ = pack_arguments(args, kwargs, "f")
    return unpack_arguments(packed.to_bytes(), values)


@given(
    st.lists(st.none() | st.integers() | st.text() | st.lists(st.integers())),
    st.dictionaries(st.text(), st.integers() | st.binary()),
)
def test_arguments_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    packed, depends_on = pack_arguments(tuple(args), kwargs, "f")
    assert unpack_arguments(packed.to_bytes(), ()) == (tuple(args), kwargs)
    assert depends_on == ()


def test_no_arguments_are_no_bytes() -> None:
    packed, depends_on = pack_arguments((), {}, "f")
    assert (packed.to_bytes(), packed.size_bytes, depends_on) == (b"", 0, ())


@pytest.mark.parametrize("body", [b"", None])
def test_no_bytes_are_no_arguments(body: bytes | None) -> None:
    assert unpack_arguments(body, ()) == ((), {})


def test_refs_at_top_level_are_waited_for(client: RecordingClient) -> None:
    packed, depends_on = pack_arguments((1, ONE), {"two": TWO}, "f")
    assert depends_on == (ONE.id, TWO.id)
    assert packed.contains == ()
    assert client.escaped == []


def test_values_take_the_places_of_their_refs() -> None:
    assert round_trip(1, ONE, TWO, values=("one", "two")) == ((1, "one", "two"), {})
    assert round_trip(0, ONE, key=TWO, values=("one", "two")) == ((0, "one"), {"key": "two"})


def test_a_ref_that_is_passed_twice_is_waited_for_in_both_places() -> None:
    packed, depends_on = pack_arguments((ONE,), {"again": ONE}, "f")
    assert depends_on == (ONE.id, ONE.id)
    assert unpack_arguments(packed.to_bytes(), ("one", "one")) == (("one",), {"again": "one"})


def test_refs_inside_containers_stay_refs() -> None:
    packed, depends_on = pack_arguments(([ONE],), {"two": {"inner": TWO}}, "f")
    assert depends_on == ()
    assert packed.contains == (ONE.id, TWO.id)
    assert unpack_arguments(packed.to_bytes(), ()) == (([ONE],), {"two": {"inner": TWO}})


def test_packing_leaves_the_callers_keywords_alone() -> None:
    kwargs = {"one": ONE}
    pack_arguments((), kwargs, "f")
    assert kwargs == {"one": ONE}


def test_without_refs_arguments_are_handed_on_untouched() -> None:
    args, kwargs = (1, [2]), {"a": 3}
    filled = fill(args, kwargs, ())
    assert filled[0] is args
    assert filled[1] is kwargs


def test_a_placeholder_counts_the_refs_of_one_call() -> None:
    args = (Placeholder(1), Placeholder(0))
    assert fill(args, {}, ("first", "second")) == (("second", "first"), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        ((1, threading.Lock()), {}, "'second'"),
        ((1, 2, threading.Lock()), {}, "2"),
        ((1,), {"more": threading.Lock()}, "'more'"),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> None:
    with pytest.raises(TypeError, match=f"cannot pickle argument {name} of f: it is a _thread"):
        pack_arguments(args, kwargs, "f", ("first", "second"))
