from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from cloudray import ids
from cloudray.driver.background import Background
from cloudray.driver.looking import MAX_PROBES, Found, Looking, Open
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Entry
from cloudray.store import Counting, Ledger, MemoryStore, RecordError, Reliable
from tests.unit.protocol.builders import BATCH_ID, done, started, write

FINISHED = Entry(1, (done(0), done(1)))


def batch_id(number: int) -> bytes:
    return ids.batch_id(BATCH_ID[:21], number)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def store(ledger: Ledger) -> Reliable:
    return Reliable(Counting(MemoryStore(), ledger))


@pytest.fixture
def found() -> list[Found]:
    return []


Look = Callable[[list[Open]], bool]


@pytest.fixture
def look(store: Reliable, found: list[Found]) -> Iterator[Look]:
    background = Background()
    over = threading.Event()
    said: list[bool] = []

    def on_over(news: bool) -> None:
        said.append(news)
        over.set()

    looking = Looking(store, background, found.append, on_over)

    def look(wanted: list[Open]) -> bool:
        over.clear()
        looking.look(wanted)
        assert over.wait(60)
        assert not looking.busy
        return said[-1]

    yield look
    background.close()


def test_entries_come_in_order(store: Reliable, look: Look, found: list[Found]) -> None:
    write(store, BATCH_ID, Entry(1, (started(0),)), Entry(1, (done(0),)), Entry(1, (done(1),)))
    assert look([Open(BATCH_ID, 1, 2)])
    assert [(one.batch, one.number) for one in found] == [(BATCH_ID, 1), (BATCH_ID, 2)]


def test_a_look_without_news_says_so(look: Look, ledger: Ledger) -> None:
    assert not look([Open(BATCH_ID, 0, 2)])
    assert ledger.as_dict()["get"] == 1


def test_nothing_is_asked_for_behind_the_last_word(
    store: Reliable, look: Look, ledger: Ledger
) -> None:
    write(store, BATCH_ID, FINISHED)
    assert look([Open(BATCH_ID, 0, 2)])
    assert ledger.as_dict()["get"] == 1


def test_many_journals_of_one_submitter_are_listed(
    store: Reliable, look: Look, ledger: Ledger, found: list[Found]
) -> None:
    wanted = [Open(batch_id(number), 0, 2) for number in range(MAX_PROBES + 20)]
    write(store, batch_id(7), FINISHED)
    write(store, batch_id(3), Entry(1, (done(0),)), Entry(1, (done(1),)))
    write(store, batch_id(10_000), FINISHED)
    assert look(wanted)
    assert sorted((ids.number_of(one.batch), one.number) for one in found) == [
        (3, 0),
        (3, 1),
        (7, 0),
    ]
    assert ledger.as_dict()["list"] == 1
    assert ledger.as_dict()["get"] == 3


def test_a_listing_goes_on_until_all_have_been_seen(
    store: Reliable, look: Look, found: list[Found]
) -> None:
    count = 1100
    for number in range(count):
        write(store, batch_id(number), FINISHED)
    assert look([Open(batch_id(number), 0, 2) for number in range(count)])
    assert len(found) == count


def test_what_is_known_is_not_read_again(store: Reliable, look: Look, ledger: Ledger) -> None:
    wanted = [Open(batch_id(number), 1, 1) for number in range(MAX_PROBES + 1)]
    for one in wanted:
        write(store, one.batch, Entry(1, (done(0),)))
    assert not look(wanted)
    assert ledger.as_dict().get("get", 0) == 0


def test_an_entry_that_is_none_is_told_as_such(
    store: Reliable, look: Look, found: list[Found]
) -> None:
    store.put(journals.key(BATCH_ID, 0), b"rubbish")
    look([Open(BATCH_ID, 0, 2)])
    (one,) = found
    assert isinstance(one.entry, RecordError)
