"""A driver whose store is far away: what it stores and looks at goes through gates of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudray import ids
from cloudray.api.options import TaskOptions
from cloudray.driver.client import DriverClient
from cloudray.protocol.buffer import Prepared
from cloudray.protocol.records import Code, Entry, Verb, Word, seal
from cloudray.refs import ObjectRef
from cloudray.store import Ledger, Reliable, StoreError, layout
from cloudray.values import codec
from tests.unit.agent.bench import JOB, SETTINGS, shape_of
from tests.unit.driver.gated import GatedStore

LIMIT_S = 60.0


class Function:
    """A function that has been pickled once."""

    def prepared(self, options: object, code: Code) -> tuple[Prepared, bytes]:
        del options, code
        return Prepared(shape_of("f"), "py311-cpu1-m0", 5, once=False), b"pickled"


@contextmanager
def driver_of(store: GatedStore) -> Iterator[DriverClient]:
    client = DriverClient(Reliable(store), Ledger(), SETTINGS, JOB, days=7, log_to_driver=False)
    try:
        yield client
    finally:
        store.release_all()
        try:
            client.close()
        except StoreError:
            # What a test had refused, and nobody has asked for.
            client.hang_up()


def submit(client: DriverClient) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = client.submit(client.prepare(Function(), TaskOptions()), b"", b"", (), ())
    return ref


def put(client: DriverClient, value: object) -> ObjectRef[Any]:
    return client.store_value(codec.dumps(value).parts, ())


def next_put_key(client: DriverClient) -> str:
    """The key of the value that is put next."""
    unit = ids.batch_id(client._prefix, client._submitting._buffer._number)
    return layout.put_object(ids.object_id(unit, ids.PUT_INDEX))


def put_held(client: DriverClient, store: GatedStore, value: object) -> tuple[ObjectRef[Any], str]:
    """Put a value that is not stored before its key is released."""
    key = next_put_key(client)
    store.hold(key)
    return put(client, value), key


def answer(store: GatedStore, ref: ObjectRef[Any], value: object) -> None:
    """Say in the journal of a ref's batch that its task has made a value."""
    word = Word(ids.index_of(ref.id), Verb.DONE, (codec.dumps(value).to_bytes(),))
    store.put(f"{layout.journal(ids.unit_of(ref.id))}0", seal(Entry(1, (word,))))
