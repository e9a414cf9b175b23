"""What happened in a simulated world, in words."""

from __future__ import annotations

import re
from typing import Any

from cloudray.protocol.records import Claim, Entry, Verb, unseal
from cloudray.store.base import Adopt, Create, Delete, Get, GetMany, Op, Put
from cloudray.store.envelope import Kind
from cloudray.store.layout import parse_queue

_LONG = re.compile(r"t\d+/jobs/[0-9a-v]{16}/|py\d+-cpu\d+-m\d+/\d+/[0-9a-v]{16}-")


class History:
    """Events with their virtual times."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, now_s: float, text: str) -> None:
        """Note an event."""
        self.lines.append(f"{now_s:9.3f}  {text}")


def short(key: str) -> str:
    """A key without what all keys of a world have in common."""
    return _LONG.sub("", key)


def line(who: str, op: Op, answer: Any) -> str:
    """One operation in words; empty for one that changes nothing and finds nothing."""
    if isinstance(op, Create):
        won = "" if answer else ", and loses"
        return f"{who} creates {short(op.key)}{_said(op)}{won}"
    if isinstance(op, Put | Adopt):
        return "" if op.key.startswith("agents/") else f"{who} writes {short(op.key)}"
    if isinstance(op, Delete):
        return f"{who} deletes {', '.join(short(key) for key in op.keys)}"
    if isinstance(op, Get):
        return f"{who} reads {short(op.key)}" if answer is not None else ""
    if isinstance(op, GetMany):
        found = [short(key) for key, body in zip(op.keys, answer, strict=True) if body is not None]
        found = [key for key in found if not key.startswith("agents/")]
        return f"{who} reads {', '.join(found)}" if found else ""
    return ""


def _said(op: Create) -> str:
    body = bytes(op.body)  # type: ignore[arg-type]
    kind = body[5]
    if kind == Kind.CLAIM:
        return f" for {unseal(Claim, body, op.key).agent or 'nobody'}"
    if kind == Kind.JOURNAL:
        entry = unseal(Entry, body, op.key)
        words = ", ".join(f"{word.index} {Verb(word.verb).name}" for word in entry.words)
        return f" under claim {entry.claim} ({words})"
    if kind == Kind.BATCH:
        parsed = parse_queue(op.key)
        return "" if parsed is None else " (a batch)"
    return ""
