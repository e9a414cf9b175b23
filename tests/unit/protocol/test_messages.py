from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.protocol import messages
from cloudray.protocol.messages import Message, Unpacker, pack
from cloudray.protocol.records import Batch, Job, Parent, Shape, Task
from cloudray.store.layout import QueueName
from cloudray.store.room import RoomSpec
from tests.unit.protocol.builders import BATCH_ID, batch_of

SHAPE = Shape("f" * 64, "task", 2, {"CPU": 5000}, -1, b"pickled", 3, {"A": "b"})
JOB = Job(b"job.......", "3.11.7", "host", 42, 1.5, ("/a",), "/home", "space")
CALL = messages.Call(1, 2, BATCH_ID + b"\0\1", 3, 4, 5, b"arguments", (b"value",))
OUTCOME = messages.Outcome(1, 2, (b"error",), 300, (b"ref",), retryable=True)
BATCH = Batch(
    BATCH_ID,
    (SHAPE,),
    (Task(0, b"a", b"", (b"b",), (b"c",), b"d"),),
    depth=1,
    parent=Parent(BATCH_ID, 0, 1, 2),
)

EXAMPLES: list[Message] = [
    messages.Attach(b"job.......", want_logs=True),
    messages.Ring((QueueName("py311-cpu1-m0", 5, BATCH_ID, 2, 7),)),
    messages.Look((BATCH_ID,)),
    messages.Greeting("agent", {"CPU": 20_000}),
    messages.Published(BATCH_ID, 3),
    messages.Printed(b"job.......", (messages.Line("task", 7, "text", is_error=False),)),
    messages.Unschedulable("task", {"GPU": 10_000}, {"CPU": 20_000}, "py39"),
    messages.Begun(BATCH_ID, "token", held=True, names=(b"unit",)),
    messages.Kept(b"unit", "token", held=True, contains=(b"other",)),
    messages.Valued(BATCH_ID, (b"unit",), ((b"ref", "key"),)),
    messages.Handled("token", (b"one",), (b"two",), (b"three",)),
    messages.Left("token"),
    messages.Setup(JOB, 7, "node", RoomSpec("/room", "/disk", 100, "/store"), "/log"),
    messages.Learn(1, SHAPE, b"pickled"),
    messages.Run((CALL,)),
    messages.Recall(),
    messages.Interrupt(9),
    messages.Resolved(((b"ref", 1, b"payload"),)),
    messages.Answer(1, b"payload"),
    messages.Leave(),
    messages.Ready("token", 7),
    messages.Outcomes((OUTCOME,), leaving=True),
    messages.Returned((1, 2)),
    messages.Blocked(blocked=True),
    messages.Submit("py311-cpu1-m0", 5, 0, BATCH),
    messages.Blob("digest", b"pickled"),
    messages.Keep(b"ref", "/spool/1"),
    messages.Handles((b"one",), (b"two",)),
    messages.Want((b"ref",)),
    messages.Cancel(b"ref", force=True),
    messages.Ask(1, "what"),
]
MESSAGES = st.lists(st.sampled_from(EXAMPLES), max_size=8)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(example) for example in EXAMPLES} == set(Message.__args__)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert Unpacker().feed(pack(message)) == [message]


def test_a_frame_begins_with_the_length_of_its_message() -> None:
    frame = pack(messages.Recall())
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4


@given(MESSAGES, st.lists(st.integers(1, 40)))
def test_messages_arrive_in_order_however_the_bytes_are_cut(
    sent: list[Message], sizes: list[int]
) -> None:
    stream = b"".join(pack(message) for message in sent)
    unpacker = Unpacker()
    received: list[Message] = []
    start = 0
    for size in sizes:
        received += unpacker.feed(stream[start : start + size])
        start += size
    received += unpacker.feed(stream[start:])
    assert received == sent


def test_half_a_message_is_kept_for_later() -> None:
    unpacker = Unpacker()
    frame = pack(messages.Submit("py311-cpu1-m0", 5, 0, batch_of(50)))
    assert unpacker.feed(frame[:3]) == []
    assert unpacker.feed(frame[3:-1]) == []
    assert len(unpacker.feed(frame[-1:])) == 1


def test_messages_do_not_change_when_the_next_bytes_arrive() -> None:
    unpacker = Unpacker()
    first = unpacker.feed(pack(messages.Answer(1, b"one")))
    unpacker.feed(pack(messages.Answer(2, b"two")))
    assert first == [messages.Answer(1, b"one")]


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        Unpacker().feed(b"\x01\x00\x00\x00\xc1")
