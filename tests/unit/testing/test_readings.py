from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloudray.protocol import journal as journals
from cloudray.protocol.records import Entry, seal
from cloudray.store import Create, Ledger, MemoryStore
from cloudray.testing.executors import Runs
from cloudray.testing.programs import Value
from cloudray.testing.readings import Readings, ViolationError
from cloudray.testing.world import World
from cloudray.values import codec
from tests.unit.protocol.builders import BATCH_ID, done


def world() -> World:
    """One in which nothing has happened."""
    bucket = SimpleNamespace(memory=MemoryStore(), ledger=Ledger())
    parts: dict[str, Any] = {"agents": [], "scripts": [], "scheduler": SimpleNamespace(now_s=0.0)}
    return cast("World", SimpleNamespace(bucket=bucket, **parts))


def check(received: int) -> None:
    """Check a world in which a batch that never was stored came to the value of run 1."""
    runs = Runs()
    readings = Readings(runs)
    value = codec.dumps(Value(5, "0.1", 1)).to_bytes()
    entry = seal(Entry(1, (done(0, value),)))
    readings.note("agent0", Create(journals.key(BATCH_ID, 0), entry), answer=True)
    runs.received.append(("0.1", received))
    readings.check_end(world())


def test_a_batch_that_ran_on_a_hint_need_not_have_been_stored() -> None:
    check(received=1)


def test_its_value_is_that_of_the_run_that_stands() -> None:
    with pytest.raises(ViolationError, match=r"run 2 of 0\.1, but not that stands"):
        check(received=2)
