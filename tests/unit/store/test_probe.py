from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cloudray.store import (
    Create,
    Get,
    MemoryStore,
    Op,
    Put,
    Reliable,
    StoreError,
    TransientStoreError,
)
from cloudray.store.probe import probe, probe_async


def test_an_honest_store_is_accepted_and_left_as_it_was() -> None:
    store = MemoryStore()
    store.put("kept", b"")
    before = store.list("")
    probe(store)
    assert store.list("") == before
    asyncio.run(probe_async(Reliable(store)))
    assert store.list("") == before


def test_a_reliable_store_is_taken_as_it_is() -> None:
    store = MemoryStore()
    probe(Reliable(store))
    assert store.list("") == []


class Broken(MemoryStore):
    """Breaks the rules in one way, and remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__("memory://broken")
        self.creates = 0


class IgnoringTheCondition(Broken):
    def perform(self, op: Op) -> Any:
        if isinstance(op, Create):
            super().perform(Put(op.key, op.body))
            return True
        return super().perform(op)


class CheckingBeforeWriting(Broken):
    """Honours the condition only among those who come one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.both_have_looked = threading.Barrier(2)

    def perform(self, op: Op) -> Any:
        if not isinstance(op, Create):
            return super().perform(op)
        found = super().perform(Get(op.key))
        self.creates += 1
        if op.key.endswith(".raced"):
            try:
                self.both_have_looked.wait(timeout=0.5)
            except threading.BrokenBarrierError:
                return super().perform(op)
        if found is None:
            super().perform(Put(op.key, op.body))
        return found is None


class AlwaysTaken(Broken):
    """Shows a body that nobody wrote."""

    def perform(self, op: Op) -> Any:
        if isinstance(op, Create):
            return False
        return b"somebody else's" if isinstance(op, Get) else super().perform(op)


@pytest.mark.parametrize(
    ("store", "what"),
    [
        (IgnoringTheCondition(), "let a second create replace the first"),
        (CheckingBeforeWriting(), r"let \d of 8 concurrent creates win"),
        (AlwaysTaken(), "said that a new key was taken"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_store_that_cannot_be_trusted_is_refused(store: Broken, what: str) -> None:
    with pytest.raises(StoreError, match=f"memory://broken ignores put-if-absent: it {what}"):
        probe(store)
    assert store.list("") == []


def test_the_refusal_says_what_to_use_instead() -> None:
    with pytest.raises(StoreError, match=r"Use a store that honours .*directory on a filesystem"):
        probe(IgnoringTheCondition())


class WithoutPermission(MemoryStore):
    def perform(self, op: Op) -> Any:
        if isinstance(op, Create):
            raise StoreError("creating was refused")
        return super().perform(op)


def test_a_store_that_refuses_to_write_says_so_itself() -> None:
    with pytest.raises(StoreError, match="creating was refused"):
        probe(WithoutPermission())


class FailingInTheRace(MemoryStore):
    def perform(self, op: Op) -> Any:
        if isinstance(op, Create) and op.key.endswith(".raced"):
            raise StoreError("out of space")
        return super().perform(op)


def test_an_error_of_a_rival_is_not_lost_in_its_thread() -> None:
    with pytest.raises(StoreError, match="out of space"):
        probe(FailingInTheRace())


class Unreachable(MemoryStore):
    def perform(self, op: Op) -> Any:
        raise TransientStoreError("no route to host")


def test_an_unreachable_store_ends_the_probe_when_its_caller_says_so() -> None:
    store = Reliable(Unreachable(), give_up_s=0.0, sleep=lambda _: None)
    with pytest.raises(TransientStoreError, match="no route to host"):
        probe(store)


class RefusingAll(MemoryStore):
    def perform(self, op: Op) -> Any:
        raise StoreError(f"{type(op).__name__} was refused")


def test_the_first_trouble_is_the_one_that_is_told() -> None:
    with pytest.raises(StoreError, match="Create was refused"):
        probe(RefusingAll())


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (IgnoringTheCondition(), "let a second create replace the first"),
        (FailingInTheRace(), "out of space"),
        (WithoutPermission(), "creating was refused"),
        (RefusingAll(), "Create was refused"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_on_the_event_loop_the_same_stores_are_refused(store: MemoryStore, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        asyncio.run(probe_async(Reliable(store)))
