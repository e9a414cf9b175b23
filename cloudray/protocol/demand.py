"""Resource demands, in ten-thousandths of a unit, and the queue classes that they make.

A class is `py<minor>-cpu<n>-m<GiB>[-gpu<n>][-x<hash>]`, each number rounded up to a power of
two, so an agent knows from the key alone which batches cannot fit it. The exact demand is in
the batch. `x` stands for the names of custom resources.
"""

from __future__ import annotations

import re
import sys

from cloudray.sizes import show_size

UNIT = 10_000
GIB = 1 << 30
_CLASS = re.compile(r"py(\d+)-cpu(\d+)-m(\d+)(?:-gpu(\d+))?(?:-x([0-9a-f]+))?")

Demand = dict[str, int]


def python_tag() -> str:
    """The part of a class that names the Python version, e.g. ``py311``.

    >>> python_tag().startswith("py3")
    True
    """
    return f"py{sys.version_info.major}{sys.version_info.minor}"


def python_of(klass: str) -> str:
    """The tag of the Python version in a class.

    >>> python_of("py311-cpu1-m0")
    'py311'
    """
    return klass.partition("-")[0]


def to_units(amount: float) -> int:
    """Ten-thousandths of a resource; Ray's precision.

    >>> to_units(0.5)
    5000
    """
    return round(amount * UNIT)


def from_units(units: int) -> float:
    """The inverse of `to_units`."""
    return units / UNIT


def _power_of_two(units: int, unit: int) -> int:
    whole = -(-units // unit)
    return 0 if whole <= 0 else 1 << (whole - 1).bit_length()


def class_of(demand: Demand, python: str | None = None) -> str:
    """The queue class of a demand.

    >>> class_of({"CPU": 30_000}, "py311")
    'py311-cpu4-m0'
    """
    cpus = _power_of_two(demand.get("CPU", 0), UNIT)
    memory = _power_of_two(demand.get("memory", 0), GIB * UNIT)
    gpus = _power_of_two(demand.get("GPU", 0), UNIT)
    custom = sorted(name for name in demand if name not in ("CPU", "GPU", "memory"))
    name = f"{python or python_tag()}-cpu{cpus}-m{memory}"
    if gpus:
        name += f"-gpu{gpus}"
    if custom:
        import hashlib

        name += "-x" + hashlib.sha256("\0".join(custom).encode()).hexdigest()[:8]
    return name


def may_host(klass: str, total: Demand) -> bool:
    """Whether an agent with these totals might fit some batch of a class."""
    match = _CLASS.fullmatch(klass)
    if match is None or f"py{match[1]}" != python_tag():
        return False
    wanted = [
        ("CPU", int(match[2]), UNIT),
        ("memory", int(match[3]), GIB * UNIT),
        ("GPU", int(match[4] or 0), UNIT),
    ]
    # Rounded up to n, the demand is above n / 2; rounded up to 1, it is above 0.
    return all(n == 0 or total.get(name, 0) > n // 2 * unit for name, n, unit in wanted)


def is_exact(klass: str, total: Demand) -> bool:
    """Whether every batch of a class fits an agent with these totals, so none need be read."""
    match = _CLASS.fullmatch(klass)
    return (
        match is not None
        and not match[5]
        and total.get("CPU", 0) >= int(match[2]) * UNIT
        and total.get("memory", 0) >= int(match[3]) * GIB * UNIT
        and total.get("GPU", 0) >= int(match[4] or 0) * UNIT
    )


def fits(demand: Demand, available: Demand) -> bool:
    """Whether a demand can be taken out of what is available."""
    return all(available.get(name, 0) >= units for name, units in demand.items())


def amount(name: str, units: int) -> str:
    """A quantity of a resource in words.

    >>> amount("CPU", 20_000), amount("memory", 5_000_000_000 * 10_000), amount("tea", 5_000)
    ('2 CPUs', '5.0 GB memory', '0.5 tea')
    """
    if name == "memory":
        return f"{show_size(units / UNIT)} memory"
    plural = "s" if name in {"CPU", "GPU"} and units != UNIT else ""
    return f"{quantity(name, units)} {name}{plural}"


def quantity(name: str, units: int) -> str:
    """A quantity of a resource, without its name unless it is memory."""
    return show_size(units / UNIT) if name == "memory" else f"{from_units(units):g}"


def amounts(demand: Demand) -> str:
    """All of a demand, or of what a machine has, in words.

    >>> amounts({"CPU": 20_000, "GPU": 0, "tea": 10_000}), amounts({})
    ('2 CPUs, 1 tea', 'nothing')
    """
    return ", ".join(amount(name, units) for name, units in demand.items() if units) or "nothing"
