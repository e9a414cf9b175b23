"""The only code that talks to object storage."""

from cloudray.store.backoff import Backoff, Pause
from cloudray.store.base import (
    Adopt,
    Body,
    Buffer,
    Create,
    Delete,
    Entry,
    Get,
    GetMany,
    Head,
    List,
    Op,
    Put,
    Store,
    StoreError,
    TransientStoreError,
)
from cloudray.store.counting import R2, S3_EXPRESS, S3_STANDARD, Counting, Ledger, Prices
from cloudray.store.directory import DirectoryStore
from cloudray.store.envelope import Kind, RecordError, new_nonce, nonce_of, open_sealed, seal
from cloudray.store.faults import Fault, FaultPlan, Faulty
from cloudray.store.memory import MemoryStore
from cloudray.store.probe import probe
from cloudray.store.procedures import Procedure, drive, drive_async
from cloudray.store.reliable import Reliable
from cloudray.store.urls import open_store

__all__ = [
    "R2",
    "S3_EXPRESS",
    "S3_STANDARD",
    "Adopt",
    "Backoff",
    "Body",
    "Buffer",
    "Counting",
    "Create",
    "Delete",
    "DirectoryStore",
    "Entry",
    "Fault",
    "FaultPlan",
    "Faulty",
    "Get",
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
    "Store",
    "StoreError",
    "TransientStoreError",
    "drive",
    "drive_async",
    "new_nonce",
    "nonce_of",
    "open_sealed",
    "open_store",
    "probe",
    "seal",
]
