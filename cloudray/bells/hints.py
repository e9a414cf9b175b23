"""What bells say: which batches are new in the queue, and by which claim to take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cloudray.store import envelope
from cloudray.store.envelope import Kind, RecordError
from cloudray.store.layout import QueueName

#: The bell of a bucket names so many batches at most: a few kilobytes, read by one request.
MAX_HINTS = 128
#: No bell is larger than this; what is, is none of ours.
MAX_BYTES = 64 << 10


class Hint(msgspec.Struct, frozen=True, array_like=True):
    """A batch that may be claimed."""

    name: QueueName
    #: the claim to try: 1 for a new batch, more for one that was given back
    number: int = 1


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """What one message of a queue service carries."""

    hint: Hint
    #: which cluster it is of: two may share a queue by mistake
    cluster: str
    #: the batch as a sealed record, when it is small; else empty
    body: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_hints = msgspec.msgpack.Decoder(tuple[Hint, ...])
_parcels = msgspec.msgpack.Decoder(Parcel)


def merged(held: Iterable[Hint], fresh: Iterable[Hint]) -> tuple[Hint, ...]:
    """What a bell says after it was rung anew: the newest last, and the oldest given up.

    Of a batch that is named twice, the later claim counts.

    >>> from cloudray import ids
    >>> batch = ids.batch_id(ids.batch_prefix(7, ids.new_timed_id(), ids.new_id()), 0)
    >>> name = QueueName("py311-cpu1-m4", 5, batch, 1, 0)
    >>> [hint.number for hint in merged([Hint(name)], [Hint(name, 3)])]
    [3]
    """
    found: dict[bytes, Hint] = {}
    for hint in (*held, *fresh):
        before = found.pop(hint.name.batch, hint)
        found[hint.name.batch] = max(before, hint, key=lambda each: each.number)
    return tuple(found.values())[-MAX_HINTS:]


def seal_hints(hints: Sequence[Hint]) -> bytes:
    """The bell as it is stored."""
    return envelope.seal(Kind.BELL, _encoder.encode(hints))


def open_hints(body: bytes, key: str) -> tuple[Hint, ...]:
    """What a stored bell says; raises `RecordError`, naming `key`, when it is none."""
    if len(body) > MAX_BYTES:
        raise RecordError(f"{key} has {len(body)} bytes, too many for a bell")
    payload = envelope.open_sealed(Kind.BELL, body, key)
    try:
        return _hints.decode(payload)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{key} does not hold the names of batches: {error}") from error


def seal_parcel(parcel: Parcel) -> bytes:
    """A message's content as a record."""
    return envelope.seal(Kind.MESSAGE, _encoder.encode(parcel))


def open_parcel(record: bytes, where: str) -> Parcel:
    """What a message carries; raises `RecordError`, naming where it came from."""
    payload = envelope.open_sealed(Kind.MESSAGE, record, where)
    try:
        return _parcels.decode(payload)
    except msgspec.MsgspecError as error:
        raise RecordError(f"a message of {where} does not name a batch: {error}") from error
