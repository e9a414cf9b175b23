"""Doorbells: hints that something new is in the queue. Any of them may be lost, late or repeated.

Agents of the driver's own machine hear by their sockets. Beyond it there is the bucket's own bell,
an object that names the newest batches (`bucket`), or a queue of Amazon SQS (`sqs`), where the
cluster was made with one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cloudray.bells.base import Doorbell, Ear, Heard, Silent
from cloudray.bells.hints import Hint

if TYPE_CHECKING:
    from cloudray.bells.bucket import BucketBell, BucketEar
    from cloudray.bells.choice import bell_of, ear_of
    from cloudray.bells.sqs import QueueBell, QueueEar

_LATER = {
    "BucketBell": "cloudray.bells.bucket",
    "BucketEar": "cloudray.bells.bucket",
    "QueueBell": "cloudray.bells.sqs",
    "QueueEar": "cloudray.bells.sqs",
    "bell_of": "cloudray.bells.choice",
    "ear_of": "cloudray.bells.choice",
}

__all__ = [
    "BucketBell",
    "BucketEar",
    "Doorbell",
    "Ear",
    "Heard",
    "Hint",
    "QueueBell",
    "QueueEar",
    "Silent",
    "bell_of",
    "ear_of",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562)."""
    module = _LATER.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(module), name)
