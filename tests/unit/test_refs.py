from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import context, ids
from cloudray.context import Anchor, Contained
from cloudray.refs import ObjectRef
from tests.unit.recording import RecordingClient

BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 3)
ID = ids.object_id(BATCH, 5, 1)
OTHER_ID = ids.object_id(BATCH, 6)


@pytest.fixture
def ref() -> ObjectRef[Any]:
    return ObjectRef(ID)


def test_refs_are_equal_when_their_ids_are_whatever_they_keep_alive(ref: ObjectRef[Any]) -> None:
    twin: ObjectRef[Any] = ObjectRef(ID, Anchor(BATCH, lambda _: None))
    twins: ObjectRef[Any] = ObjectRef(ID, Anchor(BATCH, lambda _: None))
    assert twin == twins
    assert len({twin, twins}) == 1
    assert ref != ObjectRef(OTHER_ID)


@given(st.binary(min_size=ids.OBJECT_ID_BYTES, max_size=ids.OBJECT_ID_BYTES))
def test_a_ref_comes_back_from_its_text_and_its_bytes(identifier: bytes) -> None:
    ref: ObjectRef[Any] = ObjectRef(identifier)
    assert ObjectRef.from_hex(ref.hex()) == ref
    assert ObjectRef.from_binary(ref.binary()) == ref
    assert pickle.loads(pickle.dumps(ref)) == ref


@pytest.mark.parametrize("size_bytes", [0, 28, 30])
def test_bytes_that_are_no_ref_are_refused(size_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"29 bytes long, but this is {size_bytes}"):
        _ = ObjectRef.from_binary(bytes(size_bytes))


def test_text_that_is_no_ref_is_refused() -> None:
    with pytest.raises(ValueError, match="non-hexadecimal"):
        _ = ObjectRef.from_hex("no ref")


def test_a_ref_that_leaves_the_process_is_stored_first(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    ref.hex()
    ref.binary()
    pickle.dumps(ref)
    assert client.escaped == [ID, ID, ID]


def test_a_ref_inside_a_value_is_stored_with_the_value(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    with Contained() as contained:
        pickle.dumps(ref)
    assert contained == [ID]
    assert client.escaped == []


def test_looking_at_a_ref_stores_nothing(ref: ObjectRef[Any], client: RecordingClient) -> None:
    assert repr(ref) == f"ObjectRef({ID.hex()})"
    assert ref.task_id() == ID[:27].hex()
    assert ref.job_id() == b"job.......".hex()
    assert client.escaped == []


def test_a_copy_of_a_ref_is_the_ref(ref: ObjectRef[Any], client: RecordingClient) -> None:
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref
    assert client.escaped == []


def test_a_ref_from_elsewhere_keeps_its_batch_alive_here(client: RecordingClient) -> None:
    anchor = client.anchors[ID] = Anchor(BATCH, lambda _: None)
    assert ObjectRef.from_hex(ID.hex()).anchor is anchor
    assert pickle.loads(pickle.dumps(ObjectRef(ID))).anchor is anchor


def test_a_future_is_the_clients(ref: ObjectRef[Any], client: RecordingClient) -> None:
    future = ref.future()
    assert client.futures == {ID: future}


def test_a_ref_can_be_awaited(ref: ObjectRef[Any], client: RecordingClient) -> None:
    async def wait() -> Any:
        asyncio.get_running_loop().call_soon(lambda: client.futures[ID].set_result("value"))
        return await ref

    assert asyncio.run(wait()) == "value"


def test_awaiting_a_ref_raises_what_its_task_raised(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    async def wait() -> None:
        client.future(ref).set_exception(KeyError("colour"))
        await ref

    with pytest.raises(KeyError, match="colour"):
        asyncio.run(wait())


def test_waiting_needs_a_cluster(ref: ObjectRef[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_connect", None)
    with pytest.raises(RuntimeError, match="there is no cluster"):
        ref.future()
