"""A client that remembers what it was asked, in place of a driver's or an executor's."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from cloudray.context import Anchor
from cloudray.refs import ObjectRef


class RecordingClient:
    """As much of a `context.Client` as refs and values need."""

    def __init__(self) -> None:
        self.escaped: list[bytes] = []
        self.unseen: list[bytes] = []
        self.futures: dict[bytes, Future[Any]] = {}
        self.anchors: dict[bytes, Anchor] = {}
        self.described: dict[bytes, str] = {}

    def escape(self, identifier: bytes, *, unseen: bool) -> None:
        self.escaped.append(identifier)
        if unseen:
            self.unseen.append(identifier)

    def describe(self, identifier: bytes) -> str:
        return self.described.get(identifier, "pending")

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        return self.futures.setdefault(ref.id, Future())

    def anchor(self, identifier: bytes) -> Anchor | None:
        return self.anchors.get(identifier)
