from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from cloudray import context
from cloudray.context import Anchor, Contained
from tests.unit.recording import RecordingClient


@pytest.fixture
def nobody_connects() -> Iterator[None]:
    """Nothing is known of how to join a cluster."""
    connect = context._connect
    context._connect = None
    yield
    context._connect = connect


def test_an_anchor_tells_which_batch_may_be_forgotten_when_the_last_ref_to_it_goes() -> None:
    forgotten: list[bytes] = []
    anchor = Anchor(b"batch", forgotten.append)
    refs = [anchor, anchor]
    del anchor
    refs.pop()
    gc.collect()
    assert forgotten == []
    refs.pop()
    gc.collect()
    assert forgotten == [b"batch"]


def test_all_anchors_are_equal() -> None:
    one, other = Anchor(b"one", lambda _: None), Anchor(b"other", lambda _: None)
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
    anchor = client.anchors[b"one"] = Anchor(b"batch", lambda _: None)
    assert context.anchor(b"one") is anchor
