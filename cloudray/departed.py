"""Jobs that this process has left for good: their refs are refused at once, not waited for.

Only those of embedded clusters: values at a named address outlive their driver.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloudray import ids

#: What became of each job, by id. Usually empty, so that whoever uses refs can ask for little.
jobs: dict[bytes, str] = {}

SHUT_DOWN = "its cluster was shut down"
FORKED = "its cluster is that of the process from which this one was forked"


def leave(job: bytes, why: str) -> None:
    """Remember that this process can never again read what belongs to a job."""
    jobs[job] = why


def refuse(identifiers: Iterable[bytes]) -> None:
    """Raise `ObjectLostError` for the first value that belongs to a job that was left.

    >>> refuse([bytes(29)])
    """
    for identifier in identifiers:
        why = jobs.get(ids.job_of(identifier))
        if why is not None:
            from cloudray.exceptions import ObjectLostError  # loads what only errors need

            raise ObjectLostError(identifier.hex(), reason=why)
