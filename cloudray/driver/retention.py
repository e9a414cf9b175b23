"""Until when a driver may submit: its job ends, and all that it stored goes."""

from __future__ import annotations

from collections.abc import Callable

from cloudray import platform
from cloudray.exceptions import RaySystemError
from cloudray.protocol.endings import DAY_S
from cloudray.protocol.records import Job


class Retention:
    """The time that one job has, counted from the moment when its driver joined.

    It is counted on a clock that runs through suspend: no two machines' clocks are compared, and
    a laptop that slept for a week knows it.
    """

    def __init__(
        self, job: Job, days: int, clock: Callable[[], float] = platform.monotonic_s
    ) -> None:
        self._job = job
        self._days = days
        self._clock = clock
        self._over_s = clock() + days * DAY_S

    def refuse_late(self) -> None:
        """Raise `RaySystemError` when the job's time is up: agents and `gc` end such jobs."""
        if self._clock() >= self._over_s:
            days = f"{self._days} day{'' if self._days == 1 else 's'}"
            msg = (
                f"this program's job {self._job.id.hex()} is over: it was kept for {days} after "
                "its start, and what is submitted or stored now would be removed with it. Call "
                "cloudray.shutdown() and cloudray.init() to go on as a new job; "
                "init(retention_days=30) gives it more time."
            )
            raise RaySystemError(msg)
