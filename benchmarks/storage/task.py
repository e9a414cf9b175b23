"""The task that all peers run."""

from __future__ import annotations


def nothing(number: int) -> int:
    """Do nothing."""
    return number
