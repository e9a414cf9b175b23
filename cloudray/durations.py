"""Durations as people read them: `35 s`, `3 min 12 s`."""

from __future__ import annotations

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
#: From here on whole seconds say enough.
_EXACT_S = 10


def show_duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> show_duration(0.42), show_duration(35), show_duration(192), show_duration(7500)
    ('0.4 s', '35 s', '3 min 12 s', '2 h 5 min')
    >>> show_duration(3600), show_duration(100_000)
    ('1 h', '1 d 3 h')
    """
    if seconds < _EXACT_S and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f} s"
    whole = round(max(0.0, seconds))
    for unit_s, unit, smaller_s, smaller in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // smaller_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
