"""Reading large objects in several parts at once: one stream is slower than the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cloudray.store.base import Store, StoreError
from cloudray.store.bodies import PART_BYTES

#: Parts of one object that travel at once.
READERS = 4


def read_in_parts(store: Store, key: str) -> bytes | bytearray | None:
    """Read an object, blocking; None when it is absent.

    A small one takes one request, a large one another for its size, and one for each part.

    Raises `TamperedError` for a record that the cluster's key has not signed, `StoreError` when
    the store cannot be read.

    >>> from cloudray.store import MemoryStore
    >>> store = MemoryStore()
    >>> store.put("key", b"value")
    >>> read_in_parts(store, "key"), read_in_parts(store, "absent")
    (b'value', None)
    """
    first = store.get(key, 0, PART_BYTES)
    signature = None if first is None else store.signature(key)
    if signature is not None and first is not None:
        signature.add(0, first)
    if first is None or len(first) < PART_BYTES:
        if signature is not None:
            signature.check()
        return first
    entry = store.head(key)
    if entry is None:
        return None
    body = bytearray(entry.size_bytes)
    body[:PART_BYTES] = first
    starts = range(PART_BYTES, len(body), PART_BYTES)

    def read(start: int) -> None:
        end = min(start + PART_BYTES, len(body))
        part = store.get(key, start, end)
        if part is None or len(part) != end - start:
            raise StoreError(f"{key} in {store.url} was removed while it was read")
        body[start:end] = part
        if signature is not None:
            signature.add(start // PART_BYTES, part)

    with ThreadPoolExecutor(READERS, thread_name_prefix="cloudray-get") as threads:
        for _ in threads.map(read, starts):
            pass
    if signature is not None:
        signature.check()
    return body
