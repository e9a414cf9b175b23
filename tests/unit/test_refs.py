from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import context, departed, ids
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
    twin: ObjectRef[Any] = ObjectRef(ID, Anchor())
    twins: ObjectRef[Any] = ObjectRef(ID, Anchor())
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
    with pytest.raises(ValueError, match="58 hexadecimal digits"):
        _ = ObjectRef.from_hex("no ref")


def test_a_ref_that_leaves_the_process_is_stored_first(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    ref.hex()
    ref.binary()
    pickle.dumps(ref)
    assert client.escaped == [ID, ID, ID]


def test_only_a_pickled_ref_gets_out_of_sight(ref: ObjectRef[Any], client: RecordingClient) -> None:
    ref.hex()
    ref.binary()
    assert client.unseen == []
    pickle.dumps(ref)
    assert client.unseen == [ID]


def test_an_anchor_is_told_of_refs_that_are_gone() -> None:
    anchor = Anchor()
    first: ObjectRef[Any] = ObjectRef(ID, anchor)
    second: ObjectRef[Any] = ObjectRef(OTHER_ID, anchor)
    del first
    assert anchor.gone == {ID}
    del second
    assert anchor.gone == {ID, OTHER_ID}


def test_a_ref_inside_a_value_is_stored_with_the_value(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    with Contained() as contained:
        pickle.dumps(ref)
    assert contained == [ID]
    assert client.escaped == []


def test_looking_at_a_ref_stores_nothing(ref: ObjectRef[Any], client: RecordingClient) -> None:
    assert repr(ref) == "ObjectRef(7375…300050001, pending)"
    assert ref.task_id() == ID[:27].hex()
    assert ref.job_id() == b"job.......".hex()
    assert client.escaped == []


def test_a_ref_shows_what_is_known_of_its_value(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    client.described[ID] = "done, 1.2 MB"
    assert repr(ref) == "ObjectRef(7375…300050001, done, 1.2 MB)"


def test_the_digits_that_a_ref_shows_are_found_in_all_of_them(
    ref: ObjectRef[Any], client: RecordingClient
) -> None:
    first, _, last = repr(ref).removeprefix("ObjectRef(").partition(",")[0].partition("…")
    assert first in ref.hex()
    assert ref.hex().endswith(last)
    assert client.futures == {}


def test_refs_of_one_submitter_show_different_digits() -> None:
    shown = {
        ids.short(ids.object_id(ids.batch_id(BATCH[:21], number), index, value))
        for number in (0, 1, 16, 17, 256, 0x10005)
        for index in (0, 1, 16, ids.PUT_INDEX)
        for value in (0, 1)
    }
    assert len(shown) == 6 * 4 * 2


def test_a_ref_shows_that_its_cluster_is_closed(
    ref: ObjectRef[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_client", None)
    assert repr(ref) == "ObjectRef(7375…300050001, no cluster)"
    monkeypatch.setitem(departed.jobs, b"job.......", departed.SHUT_DOWN)
    assert repr(ref) == "ObjectRef(7375…300050001, closed cluster)"


def test_a_copy_of_a_ref_is_the_ref(ref: ObjectRef[Any], client: RecordingClient) -> None:
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref
    assert client.escaped == []


def test_a_ref_from_elsewhere_keeps_its_batch_alive_here(client: RecordingClient) -> None:
    anchor = client.anchors[ID] = Anchor()
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
