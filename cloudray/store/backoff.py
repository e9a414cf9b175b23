"""How long to wait before asking a store again."""

from __future__ import annotations

from random import Random

import msgspec


class Pause(msgspec.Struct, frozen=True):
    """What a procedure yields to have its driver wait before the next operation."""

    #: how many attempts have failed, less one
    attempt: int


class Backoff(msgspec.Struct, frozen=True):
    """Exponential backoff with jitter.

    >>> Backoff(first_s=1.0, longest_s=5.0).delay_s(10, Random(1)) <= 5.0
    True
    """

    #: the longest wait after the first failure, in seconds; doubles with every attempt
    first_s: float = 0.05
    #: no wait is longer, in seconds
    longest_s: float = 5.0

    def delay_s(self, attempt: int, rng: Random) -> float:
        """Draw the wait, in seconds: between half and all of what the attempt allows."""
        # 2 ** 60 is beyond any wait; more would only overflow.
        ceiling_s: float = min(self.longest_s, self.first_s * 2 ** min(attempt, 60))
        return ceiling_s * (1 + rng.random()) / 2
