"""What a driver stores: batches, functions, code and values, near or far away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cloudray import ids
from cloudray.driver.far import Far
from cloudray.driver.following import Following
from cloudray.driver.freeing import Freeing
from cloudray.driver.peers import Peers
from cloudray.driver.uploads import MAX_COPIED_BYTES, Unit
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol import claims
from cloudray.protocol import messages as m
from cloudray.protocol.records import Batch
from cloudray.store import Put, Store, StoreFullError, drive, envelope, layout
from cloudray.store.bodies import join, size_of
from cloudray.store.layout import QueueName


class Storing:
    """Stores at once, or has it stored in the background where the store is far away."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        following: Following,
        freeing: Freeing,
        prefix: bytes,
    ) -> None:
        """`prefix` is how the ids of what this driver submits begin."""
        self._store = store
        self._peers = peers
        self._following = following
        self._freeing = freeing
        self._prefix = prefix
        #: set by the client; None where the store answers at once
        self.far: Far | None = None

    def await_room(self) -> None:
        """Wait while too much is on its way; without the client's lock, as others want to go on."""
        if self.far is not None and self.far.uploads.crowded:
            self.far.uploads.await_room()

    def batch(self, name: QueueName, batch: Batch, *, adding: bool) -> None:
        """Store a batch and ring for it; `adding`: see `Following.submitted`."""
        self._following.submitted(name, batch, adding=adding)
        if self.far is not None:
            self.far.uploads.batch(name, batch)
            return
        try:
            with _full_for_users(f"{len(batch.tasks)} calls of {batch.shapes[0].name}"):
                drive(self._store, claims.submit(name, batch))
        except ObjectStoreFullError:
            self._following.not_submitted(name.batch)
            raise
        self._peers.send(m.Ring((name,)))

    async def rang(self, name: QueueName, batch: Batch) -> None:
        """A batch has been stored in the background: say so."""
        del batch
        self._peers.send(m.Ring((name,)))

    def blob(self, digest: str, content: bytes, what: str) -> None:
        """Store a function, or code; `what` it is, for people."""
        body = envelope.seal(envelope.Kind.BLOB, content)
        put = Put(layout.blob(self._prefix, digest), body)
        if self.far is not None:
            self.far.uploads.put(digest, put)
        else:
            with _full_for_users(what):
                self._store.perform(put)

    def code(self, digest: str, archive: bytes) -> None:
        """Store a package of code."""
        self.blob(digest, archive, "the code that goes along")

    def wait(self, units: Iterable[Unit] | None) -> None:
        """Wait until these are stored (None: all); see `Uploads.wait`."""
        if self.far is not None:
            self.far.uploads.wait(units)

    def value(self, identifier: bytes, parts: Sequence[Any], contains: tuple[bytes, ...]) -> str:
        """Store a value, with refs to these inside; returns its key.

        A small one travels in the background; it counts as stored when `Following` says so.
        """
        head = envelope.header(envelope.Kind.OBJECT, envelope.new_nonce())
        key = layout.put_object(identifier)
        put = Put(key, (head, *parts))
        if self.far is None:
            self._freeing.write(put)
            return key
        unit = ids.unit_of(identifier)
        names = [ids.unit_of(inner) for inner in contains]
        if size_of(put.body) > MAX_COPIED_BYTES:
            self.far.uploads.wait(names)
            self._freeing.write(put)
            return key
        try:
            self._following.arriving[unit] = False
            self.far.uploads.put(unit, Put(key, join(put.body)), names)
        except BaseException:  # a Ctrl-C: nobody has a ref to it
            self._following.arriving.pop(unit, None)
            raise
        return key


@contextlib.contextmanager
def _full_for_users(what: str) -> Iterator[None]:
    """Let a full store say what it is full for, in the words of users."""
    try:
        yield
    except StoreFullError as full:
        raise ObjectStoreFullError(f"{what} cannot be stored: {full}") from None
