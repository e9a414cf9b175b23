"""How a cluster stands: what is queued and claimed, which agents live, and what is waited for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloudray.protocol.demand import Demand, from_units, python_of
from cloudray.protocol.leases import is_alive
from cloudray.protocol.listing import PAGE, Listing
from cloudray.protocol.nodes import list_agents, time_of
from cloudray.protocol.reasons import ABOUT_TO_START, lacking, show_python, why_queued
from cloudray.protocol.records import Batch, Claim, Cluster, Heartbeat, unseal
from cloudray.store import layout
from cloudray.store.base import Entry, Get, GetMany, List
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of
from cloudray.store.procedures import Procedure

#: No more claims than so many are read to see whom they name: of the others it is assumed that
#: somebody holds them.
MAX_CLAIMS_READ = 1000


class AgentState(msgspec.Struct, frozen=True):
    """An agent, as its last heartbeat has it."""

    agent: str
    host: str
    pid: int
    #: as people write it, e.g. ``3.11``
    python: str
    #: of CloudRay; empty for one that does not tell
    version: str
    #: resource name -> amount; memory in bytes
    resources: dict[str, float]
    available: dict[str, float]
    labels: dict[str, str]
    draining: bool
    #: it has nothing to do
    idle: bool
    #: since its heartbeat, in seconds by the store's clock; None where that tells no times
    silent_s: float | None
    #: it is not silent for too long
    alive: bool
    #: how many stored records it has refused because the cluster's key has not signed them
    refused: int = 0


class ClassState(msgspec.Struct, frozen=True):
    """The batches of one class: Python version, and what they ask for, rounded up."""

    name: str
    queued_batches: int
    queued_tasks: int
    #: agents hold them, and run them or wait for their arguments
    claimed_batches: int
    claimed_tasks: int
    #: the name of one task, and why it does not run; empty when there is nothing to explain
    example: str = ""
    reason: str = ""


class Standing(msgspec.Struct, frozen=True):
    """A cluster at one moment."""

    agents: tuple[AgentState, ...]
    classes: tuple[ClassState, ...]

    @property
    def alive(self) -> tuple[AgentState, ...]:
        """The agents that are not silent for too long."""
        return tuple(agent for agent in self.agents if agent.alive)


class _Found:
    """What was found of one class."""

    def __init__(self) -> None:
        #: the oldest first
        self.queued: list[QueueName] = []
        self.claimed: list[QueueName] = []


def survey(settings: Cluster, now_s: float) -> Procedure[Standing]:
    """Look at queue and agents; `now_s` (UTC) is used where the store tells no times.

    Writes nothing but what shows the store's time, and removes that; does without where it may
    not be written.
    """
    entries: list[Entry] = yield from list_agents()
    now_s = yield from time_of(entries, now_s)
    bodies: list[bytes | None] = yield GetMany(tuple(entry.key for entry in entries))
    agents: list[AgentState] = []
    living: list[Heartbeat] = []
    for entry, body in zip(entries, bodies, strict=True):
        if body is None:
            continue
        try:
            beat = unseal(Heartbeat, body, entry.key)
        except RecordError:
            # Of a version that this one cannot read; `cloudray doctor` names it.
            continue
        state = _state_of(beat, entry, settings, now_s)
        agents.append(state)
        if state.alive:
            living.append(beat)
    classes = yield from _classes(living)
    return Standing(tuple(agents), tuple(classes))


def _state_of(beat: Heartbeat, entry: Entry, settings: Cluster, now_s: float) -> AgentState:
    silent_s = None if entry.modified_s is None else max(0.0, now_s - entry.modified_s)
    return AgentState(
        beat.agent,
        beat.host,
        beat.pid,
        show_python(beat.python) if beat.python else "",
        beat.version,
        _amounts(beat.total),
        _amounts(beat.free),
        beat.labels,
        beat.draining,
        beat.idle,
        silent_s,
        is_alive(beat, silent_s, settings),
        beat.refused,
    )


def _amounts(demand: Demand) -> dict[str, float]:
    return {name: from_units(units) for name, units in demand.items()}


def _classes(beats: Sequence[Heartbeat]) -> Procedure[list[ClassState]]:
    found = yield from _queue({beat.agent for beat in beats})
    states: list[ClassState] = []
    for name, each in sorted(found.items()):
        example, reason = yield from _explain(each, beats)
        states.append(
            ClassState(
                name,
                len(each.queued),
                sum(one.size for one in each.queued),
                len(each.claimed),
                sum(one.size for one in each.claimed),
                example,
                reason,
            )
        )
    return states


def _queue(living: set[str]) -> Procedure[dict[str, _Found]]:
    """Sort the batches in the queue by whether an agent that lives holds them."""
    listing = Listing()
    while not listing.complete:
        listing.take((yield List(layout.QUEUE, listing.after, PAGE)), PAGE)
    last_claim = listing.last_claims
    claimed = sorted(listing.entries & last_claim.keys())
    keys = tuple(claim_of(stem, last_claim[stem]) for stem in claimed[:MAX_CLAIMS_READ])
    bodies: list[bytes | None] = yield GetMany(keys)
    unheld = {
        stem
        for stem, key, body in zip(claimed, keys, bodies, strict=False)
        if body is None or _holder(body, key) not in living
    }
    found: dict[str, _Found] = {}
    for name, number in listing.names():
        each = found.setdefault(name.klass, _Found())
        held = number > 0 and name.stem not in unheld
        (each.claimed if held else each.queued).append(name)
    return found


def _holder(body: bytes, key: str) -> str:
    try:
        return unseal(Claim, body, key).agent
    except RecordError:
        return ""


def _explain(found: _Found, beats: Sequence[Heartbeat]) -> Procedure[tuple[str, str]]:
    """Name a task that does not run, and say why."""
    oldest = next(iter([*found.queued, *found.claimed]))
    key = claim_of(oldest.stem, 0)
    try:
        body: bytes | None = yield Get(key)
        if body is None:
            # It is over by now.
            return "", ""
        batch = unseal(Batch, body, key)
    except RecordError as error:
        return "", f"cannot be read: {error}"
    shape = batch.shapes[batch.tasks[0].shape]
    reason = ""
    if found.queued:
        python = python_of(oldest.klass)
        for shape in batch.shapes:
            reason = why_queued(shape.demand, beats, python)
            if reason != ABOUT_TO_START:
                break
    if reason in ("", ABOUT_TO_START) and (yield from lacking(batch)) is not None:
        reason = "waits for its arguments"
    return (shape.name, reason) if reason else ("", "")
