"""Histories in words, for whoever has to understand a violation."""

from __future__ import annotations

import re

from cloudray import ids
from cloudray.protocol.records import Claim, Entry, unseal
from cloudray.store import layout
from cloudray.store.base import Delete, Get, GetMany
from cloudray.store.envelope import Kind
from tests.model.moves import Move, Moves, State
from tests.model.processes import Choose, Execute, Look, Ring, Stray
from tests.model.steps import Attempt
from tests.model.world import named

_KEYS = re.compile(r"(?:queue|t\d+)/[^\s,]+")


def line(moves: Moves, state: State, move: Move) -> str:
    """One move in words; empty for one that nobody sees."""
    if move.process < 0:
        return _spelled(f"{move.what} lands")
    tag = moves.world.processes[move.process].tag
    done = _done(moves.steps[move.process].due[state.where[move.process]])
    return _spelled(f"{tag} {done}: {move.what}" if move.what else f"{tag} {done}") if done else ""


def _done(step: object) -> str:
    match step:
        case Attempt():
            done = f"creates {step.key}{_said(step)}"
        case Get():
            done = f"reads {step.key}"
        case GetMany():
            done = f"reads {step.keys[0]} and on"
        case Delete():
            done = "deletes " + ", ".join(step.keys)
        case Look() | Stray():
            done = "looks"
        case Choose():
            done = "chooses"
        case Execute():
            done = "runs a task"
        case Ring():
            done = f"rings for {step.name.stem}"
        case _:
            done = ""
    return done


def _said(attempt: Attempt) -> str:
    kind = attempt.body[5]
    if kind == Kind.CLAIM:
        return f" for {unseal(Claim, attempt.body, attempt.key).agent or 'nobody'}"
    if kind == Kind.JOURNAL:
        entry = unseal(Entry, attempt.body, attempt.key)
        words = ", ".join(f"{word.index} {word.verb.name}" for word in entry.words)
        return f" under claim {entry.claim} ({words})"
    return ""


def _spelled(text: str) -> str:
    """Keys as a reader wants them: whose batch, and which record of it."""
    return _KEYS.sub(lambda match: _spell(match[0]), text)


def _spell(key: str) -> str:
    stem, dot, number = key.rpartition(".")
    if key.startswith(layout.QUEUE):
        name = named(stem if dot else key)
        submitter, batch = ids.submitter_of(name.batch), ids.number_of(name.batch)
        record = ("entry" if number == "0" else f"claim {number}") if dot else ""
    else:
        *_, text, count = stem.split("/")
        submitter, batch = ids.from_text(text), int(count, 16)
        record = f"journal {number}"
    whose = f"{submitter.decode().strip()}'s batch {batch}"
    return f"{record} of {whose}" if record else whose
