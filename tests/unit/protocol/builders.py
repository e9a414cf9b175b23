"""Small records for the tests of the protocol."""

from __future__ import annotations

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Entry, Shape, Task, Verb, Word, seal, unseal
from cloudray.store import Store
from cloudray.store.layout import QueueName

PREFIX = ids.batch_prefix(7, b"job.......", b"submitter.")
BATCH_ID = ids.batch_id(PREFIX, 0)
OTHER_ID = ids.batch_id(PREFIX, 1)


def batch_of(size: int, *, max_retries: int = 3, number: int = 0) -> Batch:
    shape = Shape("f" * 64, "task", 1, {"CPU": 10_000}, max_retries)
    tasks = tuple(Task(0, b"arguments of %d" % index) for index in range(size))
    return Batch(ids.batch_id(PREFIX, number), (shape,), tasks)


def name_of(batch: Batch) -> QueueName:
    return QueueName("py311-cpu1-m0", 5, batch.id, len(batch.tasks), 0)


def done(index: int, value: bytes = b"value") -> Word:
    return Word(index, Verb.DONE, (value,))


def failed(index: int, error: bytes = b"error") -> Word:
    return Word(index, Verb.FAILED, (error,))


def cancelled(index: int) -> Word:
    return Word(index, Verb.CANCELLED)


def started(index: int, attempt: int = 0) -> Word:
    return Word(index, Verb.STARTED, attempt=attempt)


def moved(index: int, batch: bytes, there: int) -> Word:
    return Word(index, Verb.MOVED, (batch + there.to_bytes(2, "big"),))


def write(store: Store, batch: bytes, *entries: Entry) -> None:
    """Write a journal as its first entries."""
    for number, entry in enumerate(entries):
        store.put(journals.key(batch, number), seal(entry))


def entries_of(store: Store, batch: bytes) -> list[Entry]:
    """The entries of a journal, up to the first number that is free."""
    entries: list[Entry] = []
    while (body := store.get(key := journals.key(batch, len(entries)))) is not None:
        entries.append(unseal(Entry, body, key))
    return entries


def fold(batch: bytes, *entries: Entry, size: int | None = None, once: bool = False) -> Journal:
    journal = Journal(batch, size, once=once)
    for entry in entries:
        journal.apply(entry)
    return journal
