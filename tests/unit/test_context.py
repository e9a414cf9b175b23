from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from cloudray import context
from cloudray.context import Anchor, Anchors, Contained
from tests.unit.recording import RecordingClient


@pytest.fixture
def nobody_connects() -> Iterator[None]:
    """Nothing is known of how to join a cluster."""
    connect = context._connect
    context._connect = None
    yield
    context._connect = connect


def test_an_anchor_tells_which_batch_may_be_forgotten_when_the_last_ref_to_it_goes() -> None:
    anchors = Anchors()
    forgotten: list[bytes] = []
    anchor = anchors.make(b"batch")
    refs = [anchor, anchor]
    del anchor
    refs.pop()
    gc.collect()
    forgotten += anchors.take_gone()
    assert forgotten == []
    assert anchors.find(b"batch") is refs[0]
    refs.pop()
    gc.collect()
    forgotten += anchors.take_gone()
    assert forgotten == [b"batch"]
    assert anchors.find(b"batch") is None


def test_a_batch_to_which_there_is_a_ref_again_may_not_be_forgotten() -> None:
    anchors = Anchors()
    anchors.make(b"batch")
    anchor = anchors.make(b"batch")
    assert list(anchors.take_gone()) == []
    del anchor
    assert list(anchors.take_gone()) == [b"batch"]


def test_an_anchor_whose_end_is_noted_is_not_found_again() -> None:
    found: list[Any] = []

    class Notes(list[Any]):
        def append(self, watch: Any) -> None:
            found.append(anchors.find(watch.batch))

    anchors = Anchors()
    anchors._notes = Notes()  # type: ignore[assignment]
    anchors.make(b"batch")
    assert found == [None]


def test_all_anchors_are_equal() -> None:
    one, other = Anchor(), Anchor()
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.usefixtures("nobody_connects")
def test_without_a_cluster_the_error_says_how_to_get_one() -> None:
    assert context.current() is None
    with pytest.raises(RuntimeError, match=r"call cloudray\.init\(\) first"):
        context.client()


@pytest.mark.usefixtures("nobody_connects")
def test_a_client_is_made_when_one_is_needed_and_only_then() -> None:
    made: list[context.Client] = []

    def connect() -> context.Client:
        made.append(cast("context.Client", RecordingClient()))
        return made[-1]

    context.on_first_use(connect)
    assert context.current() is None
    assert made == []
    assert context.client() is made[0]


def test_the_registered_client_is_the_current_one(client: RecordingClient) -> None:
    assert context.current() is client
    assert context.client() is client


@pytest.mark.usefixtures("client")
def test_a_client_can_be_forgotten() -> None:
    context.register(None)
    assert context.current() is None


def test_refs_that_are_pickled_inside_a_value_are_collected(client: RecordingClient) -> None:
    with Contained() as contained:
        context.note_contained(b"one")
        context.note_contained(b"two")
    assert contained == [b"one", b"two"]
    assert client.escaped == []


def test_a_ref_that_is_pickled_by_itself_escapes(client: RecordingClient) -> None:
    context.note_contained(b"one")
    assert client.escaped == [b"one"]


def test_a_value_that_is_pickled_while_another_one_is_keeps_its_refs_to_itself() -> None:
    with Contained() as outer:
        context.note_contained(b"outer")
        with Contained() as inner:
            context.note_contained(b"inner")
        context.note_contained(b"outer too")
    assert (outer, inner) == ([b"outer", b"outer too"], [b"inner"])


def test_collecting_ends_with_an_error(client: RecordingClient) -> None:
    with contextlib.suppress(ValueError), Contained():
        raise ValueError
    context.note_contained(b"one")
    assert client.escaped == [b"one"]


def test_another_thread_collects_for_itself(client: RecordingClient) -> None:
    with Contained() as contained:
        thread = threading.Thread(target=context.note_contained, args=(b"one",))
        thread.start()
        thread.join()
    assert contained == []
    assert client.escaped == [b"one"]


def test_without_a_client_nothing_needs_storing_and_nothing_is_anchored() -> None:
    context.escape(b"one")
    assert context.anchor(b"one") is None


def test_the_client_says_what_a_ref_from_elsewhere_keeps_alive(client: RecordingClient) -> None:
    anchor = client.anchors[b"one"] = Anchor()
    assert context.anchor(b"one") is anchor
