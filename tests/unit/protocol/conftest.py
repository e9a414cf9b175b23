from __future__ import annotations

import pytest

from cloudray.store import Counting, Ledger, MemoryStore, Reliable


@pytest.fixture
def ledger() -> Ledger:
    """Counts the requests to `store`."""
    return Ledger()


@pytest.fixture
def store(ledger: Ledger) -> Reliable:
    return Reliable(Counting(MemoryStore(), ledger))
