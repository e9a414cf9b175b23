"""For tests of programs on CloudRay: stores that misbehave, and storage requests counted."""

from cloudray.store import Counting, FaultPlan, Faulty, Ledger, MemoryStore
from cloudray.testing.requests import request_counts

__all__ = ["Counting", "FaultPlan", "Faulty", "Ledger", "MemoryStore", "request_counts"]
