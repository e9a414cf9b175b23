"""A cluster's store as everybody uses it: what counts, and what signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudray.store.base import Store
from cloudray.store.counting import Counting, Ledger
from cloudray.store.signing import Signed
from cloudray.store.urls import open_store

if TYPE_CHECKING:
    from cloudray.keyring import ClusterKey


def open_cluster(
    address: str,
    ledger: Ledger | None = None,
    key: ClusterKey | None = None,
    *,
    private: bool = False,
) -> Store:
    """Open the store of the cluster at an address: what a `Reliable` is put around.

    Its requests are counted in `ledger`; what is written is signed, and what is read is checked,
    without a `key` only against damage (see `Signed`, also for `private`). Which key the cluster
    has is only known once its record is read: `protocol.joining.look` compares them.

    Raises what `open_store` raises.

    >>> from cloudray.keyring import new_key
    >>> from cloudray.store import Kind, Reliable, seal
    >>> ledger = Ledger()
    >>> store = Reliable(open_cluster("memory://example", ledger, new_key()))
    >>> store.put("here", seal(Kind.PROBE, b"payload"))
    >>> bytes(store.get("here")[64:]), ledger.priced_requests
    (b'payload', 2)
    """
    raw = open_store(address)
    return sign(raw if ledger is None else Counting(raw, ledger), key, private=private)


def sign(store: Store, key: ClusterKey | None, *, private: bool = False) -> Store:
    """The store with signatures; without a key they only show what was damaged."""
    return Signed(store, key, private=private)
