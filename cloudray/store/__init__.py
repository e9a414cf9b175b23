"""The only code that talks to object storage.

What most programs never touch is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cloudray.store.base import (
    UNCHANGED,
    Adopt,
    Body,
    Buffer,
    Create,
    Delete,
    Entry,
    Get,
    GetIfChanged,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
    StoreError,
    StoreFullError,
    Tagged,
    TransientStoreError,
    Unchanged,
)
from cloudray.store.envelope import Kind, RecordError, new_nonce, nonce_of, open_sealed, seal
from cloudray.store.procedures import Procedure, drive, drive_async, drive_locked

if TYPE_CHECKING:
    from cloudray.store.backoff import Backoff, Pause
    from cloudray.store.counting import R2, S3_EXPRESS, S3_STANDARD, Counting, Ledger, Prices
    from cloudray.store.directory import DirectoryStore
    from cloudray.store.faults import Fault, FaultPlan, Faulty
    from cloudray.store.memory import MemoryStore
    from cloudray.store.opening import open_cluster
    from cloudray.store.reliable import Reliable
    from cloudray.store.room import Room, RoomSpec
    from cloudray.store.signing import DamagedError, Signed, TamperedError
    from cloudray.store.spilling import SpillingStore
    from cloudray.store.urls import open_store

_LATER = {
    "Backoff": "cloudray.store.backoff",
    "Counting": "cloudray.store.counting",
    "DamagedError": "cloudray.store.signing",
    "DirectoryStore": "cloudray.store.directory",
    "Fault": "cloudray.store.faults",
    "FaultPlan": "cloudray.store.faults",
    "Faulty": "cloudray.store.faults",
    "Ledger": "cloudray.store.counting",
    "MemoryStore": "cloudray.store.memory",
    "Pause": "cloudray.store.backoff",
    "Prices": "cloudray.store.counting",
    "R2": "cloudray.store.counting",
    "Reliable": "cloudray.store.reliable",
    "Room": "cloudray.store.room",
    "RoomSpec": "cloudray.store.room",
    "S3_EXPRESS": "cloudray.store.counting",
    "S3_STANDARD": "cloudray.store.counting",
    "SpillingStore": "cloudray.store.spilling",
    "Signed": "cloudray.store.signing",
    "TamperedError": "cloudray.store.signing",
    "open_cluster": "cloudray.store.opening",
    "open_store": "cloudray.store.urls",
}

__all__ = [
    "R2",
    "S3_EXPRESS",
    "S3_STANDARD",
    "UNCHANGED",
    "Adopt",
    "Backoff",
    "Body",
    "Buffer",
    "Counting",
    "Create",
    "DamagedError",
    "Delete",
    "DirectoryStore",
    "Entry",
    "Fault",
    "FaultPlan",
    "Faulty",
    "Get",
    "GetIfChanged",
    "GetMany",
    "Head",
    "Kind",
    "Ledger",
    "List",
    "MemoryStore",
    "Op",
    "Pause",
    "Prices",
    "Procedure",
    "Put",
    "RecordError",
    "Reliable",
    "Room",
    "RoomSpec",
    "Signed",
    "SpillingStore",
    "Store",
    "StoreError",
    "StoreFullError",
    "Tagged",
    "TamperedError",
    "TransientStoreError",
    "Unchanged",
    "drive",
    "drive_async",
    "drive_locked",
    "new_nonce",
    "nonce_of",
    "open_cluster",
    "open_sealed",
    "open_store",
    "seal",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562)."""
    module = _LATER.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(module), name)
