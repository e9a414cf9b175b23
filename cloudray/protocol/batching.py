"""How large batches are: enough work to pay for their requests, not so much that a slot waits."""

from __future__ import annotations

from cloudray.protocol.records import Duration

#: No batch has more tasks than this.
MAX_TASKS = 1000
#: A batch is closed when its arguments reach this size.
MAX_BATCH_BYTES = 1_000_000
#: Arguments and results above this travel as objects of their own.
MAX_INLINE_BYTES = 100_000
#: The weight of the newest measurement in the moving average of a function's duration.
_NEWEST = 0.3


class DurationBook:
    """What is known about how long each function takes: a moving average per function."""

    __slots__ = ("_mean_us",)

    def __init__(self) -> None:
        self._mean_us: dict[str, float] = {}

    def note(self, duration: Duration) -> None:
        """Take in a measurement of several calls."""
        if duration.calls <= 0:
            return
        mean_us = duration.total_us / duration.calls
        known = self._mean_us.get(duration.function)
        if known is not None:
            # A group of many calls says more than one call does.
            weight = 1 - (1 - _NEWEST) ** min(duration.calls, 8)
            mean_us = known + weight * (mean_us - known)
        self._mean_us[duration.function] = mean_us

    def mean_us(self, function: str) -> float | None:
        """Microseconds a call takes, or None if none has been measured."""
        return self._mean_us.get(function)


def batch_limit(
    mean_us: float | None, *, slots: int, commit_s: float, submitted: int, agents: int
) -> int:
    """How many tasks of a function make a full batch.

    Measured: what keeps an agent's slots busy for half a commit interval, so that a batch is
    published about as often as results are anyway. Unmeasured: as many as each agent would get
    if what was submitted so far were dealt out evenly, so a thousand five-second tasks never
    travel to one machine, and a thousand tiny ones still need few batches.
    """
    if mean_us is None:
        fair = -(-(submitted + 1) // max(1, agents)) if agents > 1 else MAX_TASKS
    else:
        fair = int(slots * commit_s * 500_000 / max(mean_us, 1.0))
    return max(1, min(MAX_TASKS, fair))
