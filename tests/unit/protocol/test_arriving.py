from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from cloudray.protocol.arriving import Arrival, look_around
from cloudray.protocol.leases import silence_limit_s
from cloudray.protocol.records import Cluster, Heartbeat, seal
from cloudray.store import (
    Counting,
    Entry,
    Head,
    Ledger,
    List,
    MemoryStore,
    Op,
    Store,
    drive,
    layout,
)

from .builders import batch_of, name_of

SETTINGS = Cluster(10.0, 30.0, 1.0, 60.0)
LIMIT_S = int(silence_limit_s(SETTINGS, idle=True))
META = "t7/jobs/job/meta"
NOON_S = 1_700_000_000


class Dated(MemoryStore):
    """Tells when objects were written, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = NOON_S
        self._written: dict[str, int] = {}

    def put_at(self, key: str, body: bytes, at_s: int) -> None:
        self.put(key, body)
        self._written[key] = at_s

    def perform(self, op: Op) -> Any:
        answer = super().perform(op)
        match op, answer:
            case Head(), Entry():
                return self._date(answer)
            case List(), entries:
                return [self._date(entry) for entry in entries]
        return answer

    def _date(self, entry: Entry) -> Entry:
        written_s: int | None = self._written.get(entry.key, self.now_s)
        return msgspec.structs.replace(entry, modified_s=written_s)


class Timeless(Dated):
    def _date(self, entry: Entry) -> Entry:
        return msgspec.structs.replace(entry, modified_s=None)


@pytest.fixture
def store() -> Dated:
    store = Dated()
    store.put(META, b"")
    return store


def beat(name: str, *, idle: bool = True, python: str = "py311") -> Heartbeat:
    return Heartbeat(name, 1, "host", 1, "", {"CPU": 20_000}, {}, idle=idle, python=python)


def add(store: Dated, heartbeat: Heartbeat, silent_s: int = 0) -> None:
    store.put_at(layout.agent(heartbeat.agent), seal(heartbeat), store.now_s - silent_s)


def arrive(store: Store, written_s: float = NOON_S) -> Arrival:
    return drive(store, look_around(SETTINGS, META, written_s))


# Names of agents are ids as text.
ONE, TWO, THREE = (f"{number:016x}" for number in (1, 2, 3))


def test_an_empty_cluster_has_nothing(store: Dated) -> None:
    assert arrive(store) == Arrival([], ahead_s=0)


def test_agents_that_were_heard_of_lately_are_alive(store: Dated) -> None:
    add(store, beat(ONE))
    add(store, beat(TWO), LIMIT_S - 1)
    found = arrive(store)
    assert [each.agent for each in found.beats] == [ONE, TWO]
    assert found.silent == 0


def test_agents_that_fell_silent_are_counted_and_not_read(store: Dated) -> None:
    add(store, beat(ONE), LIMIT_S + 1)
    add(store, beat(TWO), 10**6)
    ledger = Ledger()
    found = arrive(Counting(store, ledger))
    assert (found.beats, found.silent) == ([], 2)
    assert ledger == Ledger(get=1, list=2)


def test_an_agent_with_work_is_missed_sooner_than_one_without(store: Dated) -> None:
    silent_s = int(silence_limit_s(SETTINGS, idle=False)) + 1
    assert silent_s < LIMIT_S
    add(store, beat(ONE, idle=True), silent_s)
    add(store, beat(TWO, idle=False), silent_s)
    found = arrive(store)
    assert ([each.agent for each in found.beats], found.silent) == ([ONE], 1)


def test_no_clock_of_this_machine_counts(store: Dated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    add(store, beat(ONE))
    assert len(arrive(store).beats) == 1


def test_where_the_store_tells_no_times_everybody_counts() -> None:
    store = Timeless()
    store.put(META, b"")
    add(store, beat(ONE), 10**6)
    found = arrive(store)
    assert len(found.beats) == 1
    assert found.ahead_s is None


def test_a_heartbeat_that_cannot_be_read_does_not_hide_the_others(store: Dated) -> None:
    add(store, beat(ONE))
    store.put_at(layout.agent(TWO), b"of another version", store.now_s)
    found = arrive(store)
    assert (len(found.beats), found.unreadable) == (1, 1)


def test_what_waits_is_counted_by_tasks(store: Dated) -> None:
    for number, size in enumerate((3, 4)):
        stem = name_of(batch_of(size, number=number)).stem
        store.put(layout.claim_of(stem, 0), b"")
        store.put(layout.claim_of(stem, 1), b"")
    assert arrive(store).pending == 7


def test_it_tells_how_far_our_clock_is_ahead(store: Dated) -> None:
    assert arrive(store, NOON_S + 400.5).ahead_s == 400.5
    assert arrive(store, NOON_S - 400.5).ahead_s == -400.5
