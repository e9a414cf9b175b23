"""Batches that an agent could claim, and how it heard of them."""

from __future__ import annotations

import logging

import msgspec

from cloudray.agent.dispatcher import UNKNOWN_US
from cloudray.agent.rings import Ring
from cloudray.bells.base import Heard
from cloudray.protocol.records import Batch, unseal
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName, claim_of

_log = logging.getLogger(__name__)


class Candidate(msgspec.Struct):
    """A batch that could be claimed."""

    name: QueueName
    #: the claim number to try
    number: int
    #: submitted by a task of ours that may be waiting for it
    urgent: bool = False
    #: how it was heard of, if a bell rang for it
    heard: Heard | None = None
    #: which other hints came with that
    ring: Ring | None = None
    #: the batch, if the bell brought it along
    carried: Batch | None = None
    #: no other agent heard of it the same way
    alone: bool = False


def carried_by(heard: Heard) -> Batch | None:
    """The batch that a bell brought along, if it is the one that it names."""
    if not heard.body:
        return None
    name = heard.hint.name
    try:
        batch = unseal(Batch, heard.body, claim_of(name.stem, 0))
    except RecordError as error:
        _log.warning("what a bell brought along is not used: %s", error)
        return None
    return batch if (batch.id, len(batch.tasks)) == (name.batch, name.size) else None


def size_of(name: QueueName) -> int:
    """How much a batch adds to the backlog, in tasks of unknown duration."""
    return round(name.estimated_ms * 1000 / UNKNOWN_US) or (0 if name.estimated_ms else name.size)
