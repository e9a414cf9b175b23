"""What to do with a task next: start it, or declare it crashed.

Deaths are counted by STARTED words. One that stands under an earlier claim without a deciding
word is a run that nobody finished; after a death STARTED is written before each task, so the
task that kills its machine is named every time and its neighbours, never started, pay nothing.
"""

from __future__ import annotations

import msgspec

from cloudray.exceptions import TaskTimeoutError
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Shape


class Start(msgspec.Struct, frozen=True):
    """Run it."""

    #: number of this attempt under our claim
    attempt: int
    #: whether STARTED must stand in the journal first
    announce: bool


class Crashed(msgspec.Struct, frozen=True):
    """Its attempts are used up: publish `WorkerCrashedError`."""

    attempts: int


class Overtaken(msgspec.Struct, frozen=True):
    """A later claim than ours was permitted to run it: let go of the batch, and say nothing."""

    claim: int


def timed_out(
    shape: Shape, place: bytes, attempt: int, *, killed: bool = False, traceback_str: str = ""
) -> TaskTimeoutError:
    """The error of a task that ran longer than its `timeout_s` allows.

    `place` is its batch and index, `attempt` the number of its attempt under the claim, from 0.
    """
    allowed = shape.max_retries + 1 if shape.max_retries >= 0 else -1
    return TaskTimeoutError(
        task_name=shape.name,
        task_id=place.hex(),
        timeout_s=shape.timeout_s,
        attempt=attempt + 1,
        max_attempts=allowed if shape.retry_timeouts else 0,
        killed=killed,
        traceback_str=traceback_str,
    )


def deaths_before(journal: Journal, index: int, claim: int) -> int:
    """Runs of a task under earlier claims that ended in the death of their agent or executor."""
    return sum(1 for earlier, _ in journal.started.get(index, ()) if earlier < claim)


def next_step(
    journal: Journal,
    index: int,
    *,
    claim: int,
    deaths_here: int,
    attempt: int,
    max_retries: int,
    once: bool,
) -> Start | Crashed | Overtaken:
    """Decide about a task that has no deciding word.

    `deaths_here` counts executors that died running it under this claim, `attempt` is the number
    of the coming attempt. A task with `max_retries=0` must win the create of its STARTED to run.
    Finding one there under an earlier claim (or our own) means that it may have run, so it is
    crashed and never starts again; under a later claim, that our lease is lost, and the task is
    in good hands.
    """
    deaths = deaths_before(journal, index, claim) + deaths_here
    if once:
        permitted = journal.started.get(index)
        if permitted and permitted[0][0] > claim:
            return Overtaken(permitted[0][0])
        if permitted or deaths:
            return Crashed(max(1, deaths))
    # Exceptions that were retried and deaths share one budget, as in Ray.
    failed = deaths_before(journal, index, claim) + max(attempt, deaths_here)
    if deaths and 0 <= max_retries < failed:
        return Crashed(failed)
    return Start(attempt, announce=once or claim > 1 or deaths > 0)
