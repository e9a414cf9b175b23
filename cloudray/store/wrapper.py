"""A store around a store: what counts, injects faults or retries begins here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cloudray.store.base import Store

if TYPE_CHECKING:
    from cloudray.store.signing import Signature


class Wrapper(Store):
    """Hands on everything but the operations, which a subclass performs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url
        self.inline = store.inline
        self.room = store.room

    def path(self, key: str) -> Path | None:
        """The local file that *is* this object, when the inner store has one."""
        return self._store.path(key)

    def signature(self, key: str) -> Signature | None:
        """What the inner store says."""
        return self._store.signature(key)

    def refusals(self) -> Mapping[str, str]:
        """What the inner store says."""
        return self._store.refusals()

    def close(self) -> None:
        """Close the inner store."""
        self._store.close()
