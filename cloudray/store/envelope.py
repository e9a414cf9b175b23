"""The header of every stored record: 64 bytes, so that what follows stays aligned for mapping.

Where each field begins, and how many bytes it has:

    0   4  magic "CRAY"
    4   1  protocol version
    5   1  kind
    6   2  reserved, zero
    8  16  nonce: fresh for every write, so that a writer can recognise its own
   24  32  signature (HMAC-SHA-256), without a key a checksum, and zero before it is written
   56   8  reserved, zero
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum

from cloudray import platform

HEADER_BYTES = 64
#: Readers understand this version and the one before it.
VERSION = 1
_MAGIC = b"CRAY"
_HEADER = struct.Struct("<4sBBH16s32s8s")
_ZERO_SIGNATURE = bytes(32)
_RESERVED = bytes(8)


class Kind(IntEnum):
    """What a stored record is."""

    #: the record at `cluster`
    CLUSTER = 1
    #: a batch of task specs in the queue
    BATCH = 2
    #: a claim on a batch
    CLAIM = 3
    #: an entry of a batch's journal
    JOURNAL = 4
    #: a large value
    OBJECT = 5
    #: a pickled function, content-addressed
    BLOB = 6
    #: who submitted a job, and how its executors start
    JOB = 7
    #: an agent's heartbeat
    HEARTBEAT = 8
    #: captured output
    LOG = 9
    #: written and removed by the probe
    PROBE = 10
    #: that a job was deleted, or has ended
    ENDING = 11
    #: the object `bell`: names of the newest batches
    BELL = 12
    #: what a message of a queue service carries: names of batches, and small batches themselves
    MESSAGE = 13


class RecordError(Exception):
    """A stored record that this version cannot read: the message says which and why."""


class VersionError(RecordError):
    """A stored record of a protocol version that this one does not understand."""


_NONCE_BYTES = 16
#: Random bytes are drawn for many nonces at once: the system call costs more than the rest.
_DRAWN_BYTES = 256 * _NONCE_BYTES
_nonces: list[bytes] = []


def new_nonce() -> bytes:
    """Sixteen random bytes that name one write."""
    try:
        return _nonces.pop()
    except IndexError:
        drawn = os.urandom(_DRAWN_BYTES)
        _nonces.extend(
            drawn[at : at + _NONCE_BYTES] for at in range(_NONCE_BYTES, _DRAWN_BYTES, _NONCE_BYTES)
        )
        return drawn[:_NONCE_BYTES]


# Parent and child must never give two writes the same nonce.
platform.on_fork(_nonces.clear)


def header(kind: Kind, nonce: bytes) -> bytes:
    """The 64 bytes that stand before a record's payload."""
    return _HEADER.pack(_MAGIC, VERSION, kind, 0, nonce, _ZERO_SIGNATURE, _RESERVED)


def seal(kind: Kind, payload: bytes) -> bytes:
    """A record with a fresh nonce, ready to be put."""
    return header(kind, new_nonce()) + payload


def is_header(record: bytes | bytearray | memoryview) -> bool:
    """Whether this begins as a record does."""
    return len(record) >= HEADER_BYTES and record[:4] == _MAGIC


def nonce_of(record: bytes | bytearray | memoryview) -> bytes:
    """The nonce of a record, without checking anything else about it."""
    return bytes(record[8:24])


def open_sealed(kind: Kind, record: bytes | memoryview | RecordError, key: str) -> memoryview:
    """The payload of a record of this kind; `key` only names it in errors.

    Raises the error that a store answered instead of a record, which is not to be trusted.
    """
    if isinstance(record, RecordError):
        raise record
    if len(record) < HEADER_BYTES:
        raise RecordError(f"{key} is {len(record)} bytes long, shorter than a record's header")
    magic, version, found, *_ = _HEADER.unpack_from(record)
    if magic != _MAGIC:
        raise RecordError(f"{key} is not a CloudRay record: it begins with {magic!r}")
    if not VERSION - 1 <= version <= VERSION:
        raise VersionError(
            f"{key} was written with protocol version {version}; this CloudRay reads "
            f"{VERSION - 1} and {VERSION}. Upgrade the older side."
        )
    if found != kind:
        raise RecordError(f"{key} holds a record of kind {found}, not {kind.name} ({int(kind)})")
    return memoryview(record)[HEADER_BYTES:]
