"""What a job's tasks printed, as agents have stored it in pieces."""

from __future__ import annotations

from cloudray.protocol.jobs import Listed
from cloudray.protocol.listing import list_all
from cloudray.store import layout
from cloudray.store.base import Get
from cloudray.store.envelope import Kind, open_sealed
from cloudray.store.procedures import Procedure


def list_logs(listed: Listed) -> Procedure[list[str]]:
    """The keys of the pieces: each agent's in the order of their lines, oldest agent first."""
    lines = yield from list_all(layout.logs(listed.root))
    return [line.key for line in lines]


def read_log(key: str) -> Procedure[str]:
    """One piece, as text; nothing when it has gone meanwhile."""
    body: bytes | None = yield Get(key)
    if body is None:
        return ""
    return bytes(open_sealed(Kind.LOG, body, key)).decode(errors="replace")
