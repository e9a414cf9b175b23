from __future__ import annotations

import threading
from typing import Any

import pytest

from cloudray.store import Counting, Ledger, MemoryStore, Op, StoreError, parts
from cloudray.store.base import Get
from cloudray.store.parts import READERS, read_in_parts

PART_BYTES = 100


class Meeting(MemoryStore):
    """A store whose ranges behind the first part are read by two at once, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(2, timeout=30)

    def perform(self, op: Op) -> Any:
        if isinstance(op, Get) and op.start:
            self.together.wait()
        return super().perform(op)


class Vanishing(MemoryStore):
    """A store whose object goes once it has been looked at."""

    def perform(self, op: Op) -> Any:
        answer = super().perform(op)
        if isinstance(op, Get):
            self.delete([op.key])
        return answer


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", PART_BYTES)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 201, 1050])
def test_an_object_is_read_as_it_is(size: int) -> None:
    store = MemoryStore()
    body = bytes(number % 251 for number in range(size))
    store.put("key", body)
    assert read_in_parts(store, "key") == body


def test_an_object_that_is_not_there_is_none() -> None:
    assert read_in_parts(MemoryStore(), "key") is None


def test_a_small_object_takes_one_request_and_a_large_one_one_for_its_size_besides_its_parts() -> (
    None
):
    ledger = Ledger()
    store = Counting(MemoryStore(), ledger)
    store.put("small", bytes(99))
    store.put("large", bytes(450))
    before = ledger.as_dict()
    read_in_parts(store, "small")
    assert ledger.subtract(before) == Ledger(get=1)
    before = ledger.as_dict()
    read_in_parts(store, "large")
    assert ledger.subtract(before) == Ledger(get=6)


def test_parts_are_read_at_the_same_time() -> None:
    store = Meeting()
    store.put("key", bytes(PART_BYTES * (1 + READERS)))
    assert read_in_parts(store, "key") == bytes(PART_BYTES * (1 + READERS))


def test_an_object_that_goes_before_its_size_is_known_is_none() -> None:
    store = Vanishing()
    store.put("key", bytes(PART_BYTES * 3))
    assert read_in_parts(store, "key") is None


def test_an_object_that_loses_a_part_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.put("key", bytes(PART_BYTES * 3))
    whole = store.perform

    def lose(op: Op) -> Any:
        return None if isinstance(op, Get) and op.start == 2 * PART_BYTES else whole(op)

    monkeypatch.setattr(store, "perform", lose)
    with pytest.raises(StoreError, match="key in memory:// was removed while it was read"):
        read_in_parts(store, "key")
    assert not [one for one in threading.enumerate() if one.name.startswith("cloudray-get")]
