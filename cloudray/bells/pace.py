"""How often an agent looks at the bucket's bell: often while there is work, else rarely."""

from __future__ import annotations

from random import Random

#: Between two looks of one agent; of several, each looks so many times more rarely, so that the
#: bell is read about as often however many there are.
FIRST_S = 0.05
#: So long after work the next may come at any moment.
HOT_S = 10.0
#: No agent waits longer.
LONGEST_S = 5.0


class Pace:
    """Says how long to wait until the next look.

    >>> pace = Pace(Random(1))
    >>> pace.worked(0.0)
    >>> pace.delay_s(1.0) < 0.1 < 1.0 < pace.longest_s
    True
    """

    longest_s = LONGEST_S

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._worked_s = float("-inf")
        self._delay_s = LONGEST_S
        #: how many agents look
        self.agents = 1

    def worked(self, now_s: float) -> None:
        """There was work: look often for a while."""
        self._worked_s = now_s
        self._delay_s = 0.0

    def is_hot(self, now_s: float) -> bool:
        """Whether there was work a short while ago."""
        return now_s - self._worked_s <= HOT_S

    def delay_s(self, now_s: float) -> float:
        """How long to wait now, jittered so that agents do not look in step."""
        base_s = min(FIRST_S * self.agents, LONGEST_S)
        if self.is_hot(now_s):
            self._delay_s = base_s
        else:
            self._delay_s = min(max(2 * self._delay_s, base_s), LONGEST_S)
        return self._delay_s * (0.5 + self._rng.random())
