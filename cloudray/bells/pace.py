"""How often an agent looks at the bucket's bell: often while there is work, else rarely."""

from __future__ import annotations

from random import Random

#: Between two looks of one agent; of several, each looks so many times more rarely, so that the
#: bell is read about as often however many there are.
FIRST_S = 0.05
#: After work, the next look is put off by such a part of the time since: who looks back on ten
#: seconds without work may wait for a quarter of one. All looks until the pace is that of an idle
#: agent cost less than a hundredth of a cent.
PART = 1 / 40
#: An idle agent that is alone waits so long; of many each waits longer, as any of them may hear.
REST_S = 2.5
#: No agent waits longer.
LONGEST_S = 5.0


class Pace:
    """Says how long to wait until the next look.

    >>> pace = Pace(Random(1))
    >>> pace.worked(0.0)
    >>> pace.delay_s(1.0) < 0.1 < 1.0 < pace.delay_s(1000.0)
    True
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._worked_s = float("-inf")
        #: how many agents look
        self.agents = 1

    def worked(self, now_s: float) -> None:
        """There was work: look often for a while."""
        self._worked_s = now_s

    def is_slow(self, now_s: float) -> bool:
        """Whether looks have become rarer since there was work."""
        return (now_s - self._worked_s) * PART > FIRST_S * self.agents

    def delay_s(self, now_s: float) -> float:
        """How long to wait now, jittered so that agents do not look in step."""
        each_s = FIRST_S * self.agents
        rest_s = min(REST_S + each_s, LONGEST_S)
        delay_s = min(max((now_s - self._worked_s) * PART, each_s), rest_s)
        return delay_s * (0.5 + self._rng.random())
