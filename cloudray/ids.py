"""Identifiers: fixed-width bytes in memory and on the wire, base32 text in keys.

A batch is named by 25 bytes, an object by 29:

    days(1)  job(10)  submitter(10)  number(4) | index(2)  return(2)

so a reference alone says where its journal lies, and any process can resolve it. Text uses the
"extended hex" base32 alphabet, which sorts as the bytes do: jobs sort by time.
"""

from __future__ import annotations

import os
import time
from base64 import b32hexdecode, b32hexencode
from functools import lru_cache

ID_BYTES = 10
BATCH_ID_BYTES = 25
OBJECT_ID_BYTES = 29
#: The index that marks a value stored by `put`, which has no journal.
PUT_INDEX = 0xFFFF
MAX_RETURNS = 0xFFFF


def new_timed_id() -> bytes:
    """Ten bytes that sort by time (milliseconds), then at random: jobs and agents."""
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(4)


def made_at_s(timed: bytes) -> float:
    """When such an id was made (UTC seconds), by the clock of the machine that made it.

    >>> time.time() - made_at_s(new_timed_id()) < 60
    True
    """
    return int.from_bytes(timed[:6]) / 1000


def new_id() -> bytes:
    """Ten random bytes: submitters."""
    return os.urandom(ID_BYTES)


@lru_cache(maxsize=4096)
def to_text(identifier: bytes) -> str:
    """Sixteen lowercase characters for ten bytes.

    >>> to_text(bytes(10))
    '0000000000000000'
    """
    return b32hexencode(identifier).decode().lower()


@lru_cache(maxsize=4096)
def from_text(text: str) -> bytes:
    """The inverse of `to_text`.

    >>> from_text("0000000000000000") == bytes(10)
    True
    """
    return b32hexdecode(text.upper())


def batch_prefix(days: int, job: bytes, submitter: bytes) -> bytes:
    """The first 21 bytes of every batch id of one submitter."""
    return bytes((days,)) + job + submitter


def batch_id(prefix: bytes, number: int) -> bytes:
    """The id of a submitter's batch (or put) of this number."""
    return prefix + number.to_bytes(4, "big")


def object_id(batch: bytes, index: int, return_index: int = 0) -> bytes:
    """The id of one return value of one task of a batch."""
    return batch + index.to_bytes(2, "big") + return_index.to_bytes(2, "big")


def short(identifier: bytes) -> str:
    """An object's id for messages: four digits of its submitter, then those that differ there.

    Both parts occur like this in `identifier.hex()`, so a short id can be found again.

    >>> short(batch_id(batch_prefix(7, bytes(10), b"submitter."), 42) + bytes((0, 5, 0, 0)))
    '7375…2a00050000'
    """
    digits = identifier.hex()
    return f"{digits[22:26]}…{digits[42:50].lstrip('0') or '0'}{digits[50:]}"


def days_of(identifier: bytes) -> int:
    """Retention class in days."""
    return identifier[0]


def job_of(identifier: bytes) -> bytes:
    """The job that a batch or object belongs to."""
    return identifier[1:11]


def submitter_of(identifier: bytes) -> bytes:
    """The submitter that numbered a batch."""
    return identifier[11:21]


def number_of(identifier: bytes) -> int:
    """A batch's number within its submitter."""
    return int.from_bytes(identifier[21:25], "big")


def unit_of(identifier: bytes) -> bytes:
    """The batch that a value is of; for one stored by `put`, which has no batch, its own 25 bytes.

    >>> unit_of(object_id(bytes(25), 3)) == bytes(25)
    True
    """
    return identifier[:BATCH_ID_BYTES]


def index_of(identifier: bytes) -> int:
    """A task's index within its batch; `PUT_INDEX` for a value stored by `put`."""
    return int.from_bytes(identifier[25:27], "big")


def return_of(identifier: bytes) -> int:
    """The index of a return value within its task's."""
    return int.from_bytes(identifier[27:29], "big")
