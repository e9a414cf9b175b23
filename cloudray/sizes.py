"""Sizes as people write them: `2 GB`, `512MiB`."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")
_UNITS: dict[str, int] = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGTP", 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGTP", 1)},
    # As Kubernetes writes them.
    **{prefix: 1000**power for power, prefix in enumerate("KMGTP", 1)},
    **{f"{prefix}I": 1024**power for power, prefix in enumerate("KMGTP", 1)},
}


def parse_size(text: str) -> int:
    """The number of bytes that a text says, rounded up.

    K, M, G, T and P are powers of 1000, with an i (`GiB`, `Gi`) powers of 1024; the B, the space
    and the case of the letters do not matter. Raises ValueError for any other text.

    >>> parse_size("2 GB"), parse_size("512MiB"), parse_size("1000")
    (2000000000, 536870912, 1000)
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(str(match[2]).upper()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{text!r} is no size: write a number of bytes, or a number with a unit such as "
            "'500 MB', '2 GB' or '1.5 GiB'"
        )
    whole, _, fraction = match[1].partition(".")
    # Rounded up, in whole numbers, which have no limit.
    parts = int("1" + "0" * len(fraction))
    return -(-int(whole + fraction) * unit // parts)


def show_size(size_bytes: float) -> str:
    """A size as people read it, in powers of 1000.

    >>> show_size(999), show_size(1_234_000), show_size(19.2e9)
    ('999 B', '1.2 MB', '19.2 GB')
    """
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if size_bytes < 999.95:  # noqa: PLR2004 - from here on it would be printed as 1000
            break
        size_bytes, unit = size_bytes / 1000, larger
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
