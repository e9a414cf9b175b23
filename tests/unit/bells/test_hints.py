from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.bells.hints import (
    MAX_BYTES,
    MAX_HINTS,
    Hint,
    Parcel,
    merged,
    open_hints,
    open_parcel,
    seal_hints,
    seal_parcel,
)
from cloudray.store import Kind, RecordError, seal
from cloudray.store.layout import QueueName
from tests.unit.protocol.builders import PREFIX


def hint(number: int, claim: int = 1) -> Hint:
    return Hint(QueueName("py311-cpu1-m4", 5, ids.batch_id(PREFIX, number), 1, 0), claim)


def test_what_is_rung_now_comes_after_what_was_rung_before() -> None:
    assert merged([hint(1), hint(2)], [hint(3)]) == (hint(1), hint(2), hint(3))


def test_a_batch_is_named_once_by_its_latest_claim() -> None:
    assert merged([hint(1), hint(2, 3)], [hint(1, 2)]) == (hint(2, 3), hint(1, 2))
    assert merged([hint(1, 3)], [hint(1, 2)]) == (hint(1, 3),)


def test_a_bell_gives_up_the_oldest_names() -> None:
    held = merged([], map(hint, range(MAX_HINTS)))
    assert merged(held, [hint(999)]) == (*held[1:], hint(999))


def test_a_full_bell_is_a_few_kilobytes() -> None:
    assert len(seal_hints(merged([], map(hint, range(1000))))) < 10_000


def test_a_bell_says_what_was_sealed() -> None:
    assert open_hints(seal_hints([hint(1), hint(2, 4)]), "bell") == (hint(1), hint(2, 4))


def test_a_parcel_holds_what_was_sealed() -> None:
    parcel = Parcel(hint(1), "cluster", b"batch")
    assert open_parcel(seal_parcel(parcel), "queue") == parcel


@pytest.mark.parametrize(
    "body",
    [b"", b"no record", seal(Kind.BATCH, b""), seal(Kind.BELL, b"\xc1"), seal(Kind.BELL, b"\x01")],
    ids=["nothing", "no record", "another kind", "rubbish", "a number"],
)
def test_what_is_no_bell_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(RecordError, match="bell"):
        open_hints(body, "bell")


def test_a_bell_that_is_too_large_is_not_read() -> None:
    with pytest.raises(RecordError, match="too many for a bell"):
        open_hints(seal(Kind.BELL, bytes(MAX_BYTES)), "bell")


@pytest.mark.parametrize(
    "record",
    [b"short", seal(Kind.BELL, b""), seal(Kind.MESSAGE, b"\xc1")],
    ids=["short", "another kind", "rubbish"],
)
def test_what_is_no_message_is_refused_by_name(record: bytes) -> None:
    with pytest.raises(RecordError, match="queue"):
        open_parcel(record, "queue")
