"""Signatures: what a cluster's key has not signed, nobody loads.

A cluster without a key signs with one that everybody knows, `PUBLIC`: that keeps nobody out, but
what was damaged or cut off on its way is found out in the same way. There a record without a
signature has nothing to check, and passes.

The signature of a record is an HMAC-SHA-256 over the key of the store where it lies, its header
without the signature, and its payload. Because its place is signed too, a record that is copied
elsewhere (a claim on another batch, an entry at another number, another job's) is refused like one
that was changed.

    up to 8 MiB   HMAC(place | 0 | header | payload)
    larger        HMAC(place | 1 | header | size | SHA-256 of each part of 8 MiB)

In the header the signature counts as 32 zeros, and the first part begins behind the header. Parts
are those in which large records travel, so that each is hashed when it passes, in any order and by
any thread, and no byte is read twice: see `Signature`.

What it is not: a record that was there before may be put back, and any may be removed, by whoever
may write to the bucket. So work may be lost, or done again, by his hand; but only such as somebody
with the key has written.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudray.keyring import ClusterKey
from cloudray.sizes import show_size
from cloudray.store import layout
from cloudray.store.base import (
    Adopt,
    Body,
    Buffer,
    Create,
    Get,
    GetIfChanged,
    GetMany,
    Put,
    Store,
    StoreError,
    Tagged,
)
from cloudray.store.bodies import PART_BYTES, beginning_of, check_file, size_of, views_of
from cloudray.store.envelope import HEADER_BYTES, RecordError, is_header
from cloudray.store.wrapper import Wrapper

_log = logging.getLogger(__name__)

#: Where a header has the signature.
SIGNATURE = slice(24, 56)
SIGNATURE_BYTES = 32
_UNSIGNED = bytes(SIGNATURE_BYTES)
_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
#: Behind the place. No key of a store has control characters, so neither is part of one.
_WHOLE, _IN_PARTS = b"\0", b"\1"
_SIZE = struct.Struct("<Q")
#: On an event loop, more bytes are hashed by a thread.
_THREAD_BYTES = 1 << 20
_READS = frozenset((Get, GetIfChanged, GetMany))
#: Larger than any object.
_ENDLESS = 1 << 50
#: So many keys of refused records are remembered, to report each once.
_REMEMBERED = 10_000


#: The key of clusters that have none: not secret, so signatures with it are but checksums.
PUBLIC = ClusterKey("crk_" + 43 * "A", "nowhere: everybody knows it")


class TamperedError(RecordError):
    """A stored record that nobody with the cluster's key has written there. It was not loaded."""

    #: why that may be, and what to do
    advice = (
        "Somebody without the cluster's key has written it, or changed it: find out who may write "
        "to the store, then delete it."
    )

    def __init__(self, key: str, what: str, url: str = "") -> None:
        where = f"{key} in {url}" if url else key
        super().__init__(f"{where} {what}, so it was not loaded. {self.advice}")
        #: where it lies
        self.key = key
        #: completes "the record"
        self.what = what

    def __reduce__(self) -> Any:
        return RecordError, (str(self),)


class DamagedError(TamperedError):
    """A stored record that is not as it was written, in a cluster without a key.

    It was not loaded.
    """

    advice = (
        "It was damaged or cut off in the store or on its way, or lies where it was not written: "
        "read it again; if that fails too, delete it and run again what made it."
    )


class Signer:
    """Signs and checks records with one key. Any thread may use it.

    >>> from cloudray.keyring import new_key
    >>> from cloudray.store import Kind, seal
    >>> signer = Signer(new_key())
    >>> record = signer.signed("here", seal(Kind.PROBE, b"payload"))
    >>> signer.is_valid("here", record), signer.is_valid("there", record)
    (True, False)
    """

    def __init__(self, key: ClusterKey) -> None:
        # RFC 2104 by hand: copying what both of its hashes begin with takes half the time of
        # `hmac.digest`, which is most of what a small record costs.
        #: whether what it signs is only protected against accidents
        self.public = key == PUBLIC
        block = key.secret.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def signed(self, place: str, body: Body) -> Body:
        """A record as it is to be written at `place`, with its signature in the header.

        Raises ValueError for what is no record.
        """
        if isinstance(body, bytes) and HEADER_BYTES <= len(body) <= PART_BYTES:
            if not is_header(body):
                raise _no_record(place)
            signature = self.hash_whole(place, body)
            return b"".join((body[:24], signature, body[56:]))
        header = beginning_of(body, HEADER_BYTES)
        if not is_header(header):
            raise _no_record(place)
        passing = Signature(self, place)
        for number, part in enumerate(parts_of(body)):
            passing.add(number, part)
        return [passing.signed(header), *_behind_header(body)]

    def is_valid(self, place: str, record: Buffer) -> bool:
        """Whether this record was signed for this place with our key."""
        if len(record) < HEADER_BYTES:
            return False
        if len(record) <= PART_BYTES:
            return self.accepts(record, self.hash_whole(place, record))
        passing = Signature(self, place)
        for number, part in enumerate(parts_of(record)):
            passing.add(number, part)
        return passing.is_valid()

    def accepts(self, header: Buffer, signature: bytes) -> bool:
        """Whether a record's header holds this signature, or need hold none."""
        found = header[SIGNATURE]
        if hmac.compare_digest(signature, found):
            return True
        return self.public and found == _UNSIGNED and is_header(header)

    def hash_whole(self, place: str, record: Buffer) -> bytes:
        """The signature of a record that fits into one part."""
        inner = self._inner.copy()
        inner.update(b"".join((place.encode(), _WHOLE, record[:24], _UNSIGNED, record[56:64])))
        inner.update(memoryview(record)[HEADER_BYTES:])
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def hash_parts(
        self, place: str, header: bytes, size_bytes: int, digests: Sequence[bytes]
    ) -> bytes:
        """The signature of a larger one, from the digests of its parts."""
        inner = self._inner.copy()
        inner.update(b"".join((place.encode(), _IN_PARTS, header[:24], _UNSIGNED, header[56:64])))
        inner.update(_SIZE.pack(size_bytes))
        for digest in digests:
            inner.update(digest)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Signature:
    """The signature of one record that comes or goes in parts.

    Part n is the bytes [n, n + 1) * `PART_BYTES` of the record; all but the last are full. They
    may be added in any order and by several threads at once (hashing releases the interpreter's
    lock), and a part that is added again, because it had to travel again, replaces what it was.
    Then either `signed` makes the header to write, or `is_valid` says whether the record that was
    read is to be trusted. The first part must have been added, and none may be missing.

    >>> from cloudray.keyring import new_key
    >>> from cloudray.store import Kind, seal
    >>> signer, record = Signer(new_key()), seal(Kind.OBJECT, bytes(20_000_000))
    >>> parts = list(parts_of(record))
    >>> going = Signature(signer, "place")
    >>> for number in (2, 0, 1):
    ...     going.add(number, parts[number])
    >>> coming = Signature(signer, "place")
    >>> coming.add(0, going.signed(record[:64]) + bytes(parts[0][64:]))
    >>> for number in (1, 2):
    ...     coming.add(number, parts[number])
    >>> coming.is_valid()
    True
    """

    def __init__(
        self,
        signer: Signer,
        place: str,
        refuse: Callable[[str, str], TamperedError] | None = None,
    ) -> None:
        """`place` is the key of the store where the record lies, or will.

        `refuse` makes, and reports, the error for a place and what is wrong there.
        """
        self._signer = signer
        self._place = place
        self._refuse = refuse or TamperedError
        self._lock = threading.Lock()
        #: digest and size of each part
        self._parts: dict[int, tuple[bytes, int]] = {}
        #: the first part, while it may be all there is
        self._first = b""

    def add(self, number: int, part: Buffer) -> None:
        """Take in a part as it passes."""
        if not number:
            if len(part) < HEADER_BYTES:
                raise self._refuse(self._place, _wrong_with(part))
            # Not hashed yet: if it is the only one, it is hashed otherwise.
            first = bytes(part)
            with self._lock:
                self._first = first
            return
        digest = hashlib.sha256(part).digest()
        with self._lock:
            self._parts[number] = digest, len(part)

    def signed(self, header: Buffer) -> bytes:
        """The header to write, with the signature in it."""
        header = bytes(header[:HEADER_BYTES])
        signature = self._compute(header)
        return b"".join((header[:24], signature, header[56:]))

    def is_valid(self) -> bool:
        """Whether the parts make up a record that was signed for its place with our key."""
        header = self._first[:HEADER_BYTES]
        return self._signer.accepts(header, self._compute(header))

    def check(self) -> None:
        """Raise `TamperedError` unless `is_valid`."""
        if not self.is_valid():
            raise self._refuse(self._place, _wrong_with(self._first))

    def _compute(self, header: bytes) -> bytes:
        with self._lock:
            first, others = self._first, dict(self._parts)
        if not first or sorted(others) != list(range(1, len(others) + 1)):
            raise ValueError(f"some parts of {self._place} have not been added")
        if not others:
            return self._signer.hash_whole(self._place, header + first[HEADER_BYTES:])
        digests = [hashlib.sha256(memoryview(first)[HEADER_BYTES:]).digest()]
        size_bytes = len(first)
        for _, (digest, part_bytes) in sorted(others.items()):
            digests.append(digest)
            size_bytes += part_bytes
        return self._signer.hash_parts(self._place, header, size_bytes, digests)


class Signed(Wrapper):
    """Signs what is written into a store, and refuses what is read and not signed.

    It stands below `Reliable`, so that a body that lost a create is checked like any other before
    somebody learns from it; and above what counts and what injects faults, which know nothing of
    it. The same body is signed the same way at each attempt, so an attempt may be repeated.

    Of what `GetMany` finds, a record that is refused is answered by its `TamperedError`, which
    `open_sealed` raises when somebody opens it. A range is read unchecked, because only the whole
    can be checked: whoever reads a record in parts does so with `signature`.
    """

    def __init__(
        self, store: Store, key: ClusterKey | None = None, *, private: bool = False
    ) -> None:
        """Sign with `key` what goes into `store`; None: with `PUBLIC`.

        `private`: the store is a folder that only this user can enter, and goes with its driver.
        There, and in any directory without a key, large values are neither signed nor checked, for
        they are mapped and shared, and hashing them would take longer than all the rest. With a
        key no other file is mapped, because others could change it after it was checked: it is
        copied, and the copy checked.
        """
        super().__init__(store)
        self._raw = store.perform
        self._raw_async = store.perform_async
        self._private = private or (key is None and store.url.startswith("file:"))
        self.signer = Signer(key or PUBLIC)
        #: records that were refused, and why
        self._refused: dict[str, str] = {}

    def perform(self, op: Any) -> Any:
        """Perform one operation; raises `TamperedError` for what is read and not to be trusted."""
        kind = type(op)
        if kind is Create or kind is Put:
            return self._raw(self._outgoing(op))
        if kind in _READS:
            return self._checked(op, self._raw(self._bounded(op)))
        if kind is Adopt:
            self._sign_file(op)
        return self._raw(op)

    async def perform_async(self, op: Any) -> Any:
        """Perform one operation on the event loop, where only what is small is hashed."""
        kind = type(op)
        if kind is Create or kind is Put:
            if not self._private and size_of(op.body) >= _THREAD_BYTES:
                from cloudray.store.threads import in_thread

                op = await in_thread(self._outgoing, op)
            else:
                op = self._outgoing(op)
            return await self._raw_async(op)
        if kind in _READS:
            found = await self._raw_async(self._bounded(op))
            if kind is Get and found is not None and len(found) >= _THREAD_BYTES:
                from cloudray.store.threads import in_thread

                return await in_thread(self._checked, op, found)
            return self._checked(op, found)
        if kind is Adopt and not self._private:
            from cloudray.store.threads import in_thread

            await in_thread(self._sign_file, op)
        return await self._raw_async(op)

    def path(self, key: str) -> Path | None:
        """The local file that is this object, where nobody else can write it."""
        return self._store.path(key) if self._private else None

    def signature(self, key: str) -> Signature | None:
        """What checks, or makes, the signature of a record that travels in parts."""
        return None if self._is_trusted(key) else Signature(self.signer, key, self.refuse)

    def refusals(self) -> Mapping[str, str]:
        """The records that were not loaded, and why."""
        return self._refused

    def refuse(self, key: str, what: str) -> TamperedError:
        """The error to raise for a record, which is reported the first time."""
        if self.signer.public:
            error: TamperedError = DamagedError(key, what, self.url)
            if key == layout.CLUSTER:
                # Whoever joins says so, or that the cluster has a key.
                return error
        else:
            error = TamperedError(key, what, self.url)
        if key not in self._refused:
            if len(self._refused) < _REMEMBERED:
                self._refused[key] = what
            _log.warning("%s", error)
        return error

    # -- writing -----------------------------------------------------------------------------

    def _is_trusted(self, key: str) -> bool:
        return self._private and layout.is_object(key)

    def _outgoing(self, op: Any) -> Any:
        if self._is_trusted(op.key):
            return op
        return type(op)(op.key, self.signer.signed(op.key, op.body))

    def _sign_file(self, op: Adopt) -> None:
        """Write the signature into a file that is to be adopted."""
        if self._is_trusted(op.key):
            return
        check_file(op)
        try:
            self._write_signature(op)
        except OSError as error:
            raise StoreError(f"cannot sign {op.path} to make it {op.key}: {error}") from error

    def _write_signature(self, op: Adopt) -> None:
        passing = Signature(self.signer, op.key)
        descriptor = os.open(op.path, os.O_RDWR)
        try:
            header = os.pread(descriptor, HEADER_BYTES, 0)
            if not is_header(header):
                raise _no_record(op.key)
            number = 0
            while part := os.pread(descriptor, PART_BYTES, number * PART_BYTES):
                passing.add(number, part)
                number += 1
            os.pwrite(descriptor, passing.signed(header), 0)
        finally:
            os.close(descriptor)

    # -- reading -----------------------------------------------------------------------------

    def _bounded(self, op: Any) -> Any:
        """A read that ends a byte behind the largest record that may lie there."""
        if self._private:
            return op
        if type(op) is GetMany:
            return GetMany(op.keys, max(map(_limit_of, op.keys), default=0) + 1)
        if type(op) is GetIfChanged:
            return GetIfChanged(op.key, op.etag, _limit_of(op.key) + 1)
        if op.start is not None or op.end is not None:
            return op
        return Get(op.key, 0, _limit_of(op.key) + 1)

    def _checked(self, op: Any, found: Any) -> Any:
        if type(op) is GetMany:
            return [
                None if body is None else self._body_or_error(key, body)
                for key, body in zip(op.keys, found, strict=True)
            ]
        if type(op) is GetIfChanged:
            if isinstance(found, Tagged):
                self._check(op.key, found.body)
            return found
        if found is None or op.start is not None or op.end is not None:
            return found
        return self._check(op.key, found)

    def _body_or_error(self, key: str, body: Any) -> Any:
        """One that is not to be trusted must not keep the others from being read."""
        try:
            return self._check(key, body)
        except TamperedError as error:
            return error

    def _check(self, key: str, found: Any) -> Any:
        if self._is_trusted(key):
            return found
        if not self._private and len(found) > _limit_of(key):
            limit = show_size(_limit_of(key))
            raise self.refuse(key, f"has more than the {limit} that a record may have there")
        if not self.signer.is_valid(key, found):
            raise self.refuse(key, _wrong_with(found))
        return found


def _limit_of(key: str) -> int:
    limit_bytes = layout.limit_of(key)
    return _ENDLESS if limit_bytes is None else limit_bytes


def _wrong_with(record: Buffer) -> str:
    """What is wrong with a record that is not valid; completes the sentence of its error."""
    if len(record) < HEADER_BYTES:
        return f"has {len(record)} bytes, less than a record's header"
    if not is_header(record):
        return "is no record"
    if bytes(record[SIGNATURE]) == _UNSIGNED:
        return "is not signed"
    return "has a signature that is not that of this record at this place"


def parts_of(body: Body) -> Iterator[Buffer]:
    """The parts of a record that lies in memory, each of `PART_BYTES` but the last."""
    views = views_of(body)
    if len(views) == 1:
        for start in range(0, views[0].nbytes, PART_BYTES):
            yield views[0][start : start + PART_BYTES]
        return
    part = bytearray()
    for view in views:
        start = 0
        while start < view.nbytes:
            end = start + PART_BYTES - len(part)
            part += view[start:end]
            start = end
            if len(part) == PART_BYTES:
                yield part
                part = bytearray()
    if part:
        yield part


def _behind_header(body: Body) -> list[memoryview]:
    left = HEADER_BYTES
    behind = []
    for view in views_of(body):
        if view.nbytes > left:
            behind.append(view[left:])
        left = max(0, left - view.nbytes)
    return behind


def _no_record(key: str) -> StoreError:
    return StoreError(f"what should be written to {key} does not begin with a record's header")
