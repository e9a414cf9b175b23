"""Which doorbell a cluster has."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from cloudray.bells.base import Doorbell, Ear, Silent
from cloudray.bells.bucket import BucketBell, BucketEar
from cloudray.store.base import Store


class Settings(Protocol):
    """What a cluster's record says of its doorbell."""

    @property
    def ephemeral(self) -> bool:
        """Whether everybody is on one machine, and hears by sockets."""

    @property
    def sqs(self) -> str:
        """The URL of the queue, if the cluster was made with one."""

    @property
    def id(self) -> str:
        """How the cluster's messages are known."""


def bell_of(store: Store, settings: Settings, clock: Callable[[], float]) -> Doorbell:
    """What rings for a submitter in this cluster; `clock` is monotonic, in seconds.

    In an ephemeral one everybody hears by sockets, and nobody outside of this process listens to
    a store that is in its memory.
    """
    if settings.ephemeral or store.inline:
        return Silent()
    if settings.sqs:
        from cloudray.bells.sqs import Channel, QueueBell

        return QueueBell(Channel(store, settings.sqs, settings.id))
    return BucketBell(store, clock)


def ear_of(store: Store, settings: Settings, clock: Callable[[], float], rng: Random) -> Ear | None:
    """What an agent in this cluster listens with; None where scanning is as good."""
    if settings.ephemeral or store.inline:
        return None
    if settings.sqs:
        from cloudray.bells.sqs import Channel, QueueEar

        return QueueEar(Channel(store, settings.sqs, settings.id))
    return BucketEar(store, clock, rng)
