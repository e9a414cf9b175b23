from __future__ import annotations

from typing import Any

import pytest

from cloudray.driver import reaching
from cloudray.driver.reaching import reach
from cloudray.protocol.joining import join
from cloudray.store import MemoryStore, Op, Reliable, StoreError, TransientStoreError, drive
from cloudray.store.base import CredentialsError
from cloudray.store.watch import Watch


class Expired(MemoryStore):
    """Refuses with expired credentials, some times."""

    def __init__(self, times: int, error: StoreError | None = None) -> None:
        super().__init__()
        self.left = 0
        drive(Reliable(self), join("s3://bucket"))
        self.left = times
        self.error = error or CredentialsError("the credentials have expired. Run this.")

    def perform(self, op: Op) -> Any:
        if self.left:
            self.left -= 1
            raise self.error
        return super().perform(op)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has patience."""
    monkeypatch.setattr(reaching, "REACH_S", 0.0)


@pytest.fixture
def said() -> list[str]:
    return []


def reach_it(store: MemoryStore, said: list[str], *, attended: bool) -> object:
    watch = Watch("s3://bucket", said.append)
    return reach(store, "s3://bucket", None, watch, attended=lambda: attended)


def test_whoever_looks_on_is_told_what_to_run_and_waited_for(said: list[str]) -> None:
    assert reach_it(Expired(3), said, attended=True) is not None
    assert said[0] == "the credentials have expired. Run this. Waiting until it is done."


def test_where_nobody_looks_on_it_is_an_error(said: list[str]) -> None:
    with pytest.raises(CredentialsError, match=r"Run this\."):
        reach_it(Expired(99), said, attended=False)


def test_a_store_that_is_away_is_not_waited_for(said: list[str]) -> None:
    with pytest.raises(TransientStoreError, match="no route"):
        reach_it(Expired(99, TransientStoreError("no route")), said, attended=True)
