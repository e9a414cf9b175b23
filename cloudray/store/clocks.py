"""Whose clock is wrong, and by how much."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from cloudray.durations import show_duration

#: Clocks that differ by more, in seconds, are worth a warning. S3 refuses 15 minutes.
TOLERATED_S = 300
_REQUEST_TIME = re.compile(r"<RequestTime>([^<]+)</RequestTime>")
_SERVER_TIME = re.compile(r"<ServerTime>([^<]+)</ServerTime>")
_ADVICE = (
    "Set it: switch on synchronisation (`sudo timedatectl set-ntp true`), or after sleep of a "
    "virtual machine or WSL restart it."
)


def skew_in(refusal: str) -> int | None:
    """How far ahead of the store's clock ours is, in seconds, as S3's own refusal says.

    None when it does not say the store's time.

    >>> skew_in("<RequestTime>20260102T030405Z</RequestTime><ServerTime>2026-01-02T03:24:05Z"
    ...         "</ServerTime>")
    -1200
    """
    server = _SERVER_TIME.search(refusal)
    if server is None or (theirs_s := _seconds_of(server[1])) is None:
        return None
    request = _REQUEST_TIME.search(refusal)
    ours_s = _seconds_of(request[1]) if request else None
    return round((time.time() if ours_s is None else ours_s) - theirs_s)


def describe_skew(ahead_s: float | None, whose: str = "this machine") -> str:
    """Say which clock is wrong, by how much, and what to do.

    >>> print(describe_skew(-1200).partition(". ")[0])
    the clock of this machine is 20 min behind that of the store
    """
    if ahead_s is None:
        return f"the clock of {whose} is wrong. {_ADVICE}"
    side = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"the clock of {whose} is {show_duration(abs(ahead_s))} {side} that of the store. {_ADVICE}"
    )


def _seconds_of(text: str) -> float | None:
    """The UTC time in ISO format, with or without punctuation; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
