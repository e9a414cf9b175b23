from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudray.store import (
    R2,
    S3_EXPRESS,
    Adopt,
    Counting,
    Create,
    Delete,
    Entry,
    Get,
    GetMany,
    Head,
    Ledger,
    List,
    MemoryStore,
    Op,
    Put,
    Reliable,
    TransientStoreError,
)

from .scripted import Scripted


@pytest.mark.parametrize(
    ("op", "counted"),
    [
        (Put("key", b"body"), Ledger(put=1)),
        (Put("key", b""), Ledger(put=1)),
        (Create("key", b"body"), Ledger(put=1)),
        (Get("key"), Ledger(get=1)),
        (Head("key"), Ledger(get=1)),
        (GetMany(("a", "b", "c")), Ledger(get=3)),
        (GetMany(()), Ledger()),
        (List("prefix"), Ledger(list=1)),
        (Delete(("a", "b")), Ledger(delete=1)),
        (Delete(tuple(map(str, range(1001)))), Ledger(delete=2)),
        (Delete(()), Ledger()),
    ],
)
def test_each_operation_is_so_many_requests(op: Op, counted: Ledger) -> None:
    blocking, suspending = Counting(MemoryStore(), Ledger()), Counting(MemoryStore(), Ledger())
    blocking.perform(op)
    asyncio.run(suspending.perform_async(op))
    assert blocking.ledger == suspending.ledger == counted


def test_a_body_of_several_parts_is_as_many_requests_and_two() -> None:
    store = Counting(MemoryStore(), Ledger())
    store.put("key", bytes(8 << 20))
    assert store.ledger == Ledger(put=1)
    store.put("key", [bytes(8 << 20), b"one more"])
    assert store.ledger == Ledger(put=1 + 4)


def test_an_adopted_file_is_an_upload(tmp_path: Path) -> None:
    store = Counting(MemoryStore(), Ledger())
    file = tmp_path / "file"
    file.write_bytes(b"body")
    store.perform(Adopt("key", file))
    assert store.ledger == Ledger(put=1)


@pytest.mark.parametrize(("entries", "pages"), [(999, 1), (1000, 1), (1001, 2), (3000, 3)])
def test_a_long_listing_is_a_request_per_page(entries: int, pages: int) -> None:
    store = Counting(Scripted([[Entry("key", 1, "")] * entries]), Ledger())
    store.list("prefix", limit=5000)
    assert store.ledger == Ledger(list=pages)


def test_attempts_that_fail_count_too() -> None:
    raw = Scripted([TransientStoreError("503"), None, False, b""])
    store = Reliable(Counting(raw, ledger := Ledger()), sleep=lambda _: None)
    store.put("key", b"body")
    store.perform(Create("key", bytes(64)))
    assert ledger == Ledger(put=3, get=1)


def test_all_but_deletions_are_priced() -> None:
    assert Ledger(put=1, get=2, list=4, delete=8).priced_requests == 7


@pytest.mark.parametrize(
    ("ledger", "standard_usd", "express_usd", "r2_usd"),
    [
        (Ledger(put=10**6), 5.0, 1.13, 4.5),
        (Ledger(get=10**6), 0.4, 0.03, 0.36),
        (Ledger(list=10**6), 5.0, 1.13, 4.5),
        (Ledger(delete=10**6), 0.0, 0.0, 0.0),
        (Ledger(put=2 * 10**6, get=10**6), 10.4, 2.29, 9.36),
    ],
)
def test_requests_cost_what_the_list_says(
    ledger: Ledger, standard_usd: float, express_usd: float, r2_usd: float
) -> None:
    assert ledger.cost_usd() == pytest.approx(standard_usd)
    assert ledger.cost_usd(S3_EXPRESS) == pytest.approx(express_usd)
    assert ledger.cost_usd(R2) == pytest.approx(r2_usd)


def test_ledgers_of_several_processes_add_up() -> None:
    ours = Ledger(put=1, get=2)
    ours.merge(Ledger(get=3, list=4))
    ours.merge(json.loads(json.dumps(Ledger(delete=5).as_dict())))
    assert ours == Ledger(put=1, get=5, list=4, delete=5)


def test_a_ledger_survives_as_a_dictionary() -> None:
    ledger = Ledger(put=1, get=2, list=3, delete=4)
    assert ledger.as_dict() == {"put": 1, "get": 2, "list": 3, "delete": 4}
    assert Ledger(**ledger.as_dict()) == ledger


def test_what_was_counted_since_is_a_difference() -> None:
    store = Counting(MemoryStore(), Ledger(put=7))
    before = store.ledger.as_dict()
    store.put("key", b"body")
    store.get("key")
    assert store.ledger.subtract(before) == Ledger(put=1, get=1)
    assert store.ledger.subtract(Ledger(**before)) == Ledger(put=1, get=1)
    assert store.ledger == Ledger(put=8, get=1)


def test_threads_lose_no_count() -> None:
    ledger = Ledger()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ledger.add("get"), range(4000)))
    assert ledger == Ledger(get=4000)


def test_there_are_no_other_kinds() -> None:
    with pytest.raises(KeyError):
        Ledger().merge({"post": 1})


def test_a_ledger_shows_its_counts() -> None:
    assert repr(Ledger(put=1)) == "Ledger(put=1, get=0, list=0, delete=0)"
