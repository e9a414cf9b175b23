"""Checks of option values: each takes a keyword and a value of the right type.

Each returns what `TaskOptions` keeps, or raises ValueError or TypeError in Ray's words.
"""

from __future__ import annotations

import math
import re
from typing import Any

from cloudray.ids import MAX_RETURNS

#: Quantities of resources are multiples of this; Ray's precision.
SMALLEST_QUANTITY = 0.0001
#: More than any machine has; what is stored must fit into 64 bits.
LARGEST_QUANTITY = 1e15
_LARGEST_COUNT = 2**31 - 1
STRATEGIES = ("DEFAULT", "SPREAD")

_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def quantity(name: str, value: float) -> float:
    """A number of units of a resource: finite, not negative, no finer than Ray's precision."""
    if not -math.inf < value < math.inf:  # of which neither is NaN; ints may be of any size
        raise ValueError(f"The quantity of resource {name} must be a finite number, not {value}")
    if value < 0:
        raise ValueError(f"The quantity of resource {name} cannot be negative")
    if value > LARGEST_QUANTITY:
        raise ValueError(f"The quantity of resource {name} cannot go beyond {LARGEST_QUANTITY:.0e}")
    if 0 < value < SMALLEST_QUANTITY:
        raise ValueError(
            f"The precision of the fractional quantity of resource {name} cannot go beyond "
            f"{SMALLEST_QUANTITY}"
        )
    return float(value)


def gpus(name: str, value: float) -> float:
    """A quantity of GPUs: above one they are whole."""
    amount = quantity(name, value)
    if amount > 1 and not amount.is_integer():
        raise ValueError(
            "GPU resource quantities >1 must be whole numbers. "
            f"The specified quantity {value} is invalid."
        )
    return amount


def memory(name: str, value: float) -> int:
    """A number of bytes, rounded up."""
    return math.ceil(quantity(name, value)) if value else 0


def resources(_name: str, value: dict[Any, Any]) -> dict[str, float]:
    """Quantities of custom resources; the standard ones have keywords of their own."""
    if "CPU" in value or "GPU" in value:
        raise ValueError(
            "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in "
            "'resources' keyword"
        )
    if "memory" in value or "object_store_memory" in value:
        raise ValueError(
            "The resources dictionary must not contain the key 'memory' or 'object_store_memory'; "
            "use the 'memory' keyword"
        )
    for resource, amount in value.items():
        if not isinstance(resource, str) or not isinstance(amount, (int, float)):
            raise TypeError(
                f"The 'resources' keyword must be of type Dict[str, float], but it has "
                f"{resource!r}: {amount!r}"
            )
    return {
        text("resources", resource): quantity(resource, amount)
        for resource, amount in value.items()
    }


def num_returns(_name: str, value: int | str) -> int:
    """A count; generators are not supported yet."""
    if value in ("streaming", "dynamic"):
        raise ValueError(
            f"num_returns={value!r} is not supported yet: let the function return a list, "
            "or call it once for each item"
        )
    if isinstance(value, str) or value < 0:
        raise ValueError(
            "The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' "
            f"(for generators), or 'dynamic', not {value!r}"
        )
    if value > MAX_RETURNS:
        raise ValueError(
            f"The keyword 'num_returns' cannot go beyond {MAX_RETURNS}: return a list, or call "
            "the function more often"
        )
    return int(value)


def max_calls(name: str, value: int) -> int:
    """A count; 0 is no limit."""
    if value < 0:
        raise ValueError(f"The keyword '{name}' only accepts None, 0 or a positive integer.")
    return _count(name, value)


def max_retries(name: str, value: int) -> int:
    """A count; -1 is no limit."""
    if value < -1:
        raise ValueError(
            f"The keyword '{name}' only accepts None, 0, -1 or a positive integer, "
            "where -1 represents infinity."
        )
    return _count(name, value)


def _count(name: str, value: int) -> int:
    if value > _LARGEST_COUNT:
        raise ValueError(f"The keyword '{name}' cannot go beyond {_LARGEST_COUNT}.")
    return int(value)


def retry_exceptions(name: str, value: Any) -> bool | tuple[type[Exception], ...]:
    """All, none, or a tuple of exception classes."""
    if isinstance(value, bool):
        return value
    classes = tuple(value)
    for found in classes:
        if not isinstance(found, type) or not issubclass(found, Exception):
            raise ValueError(  # noqa: TRY004 - what Ray raises
                f"{name} must be either a boolean or a list of exceptions, but it has {found!r}"
            )
    return classes


def seconds(name: str, value: float) -> float:
    """A time that can be over: finite, and above 0."""
    if not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"The keyword '{name}' only accepts None or a positive number of seconds, not {value!r}"
        )
    return float(value)


def text(name: str, value: str) -> str:
    """Characters that can be written down, which half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The keyword '{name}' has {value!r}, which is no text: {error.reason} at position "
            f"{error.start}"
        ) from None
    return value


def strategy(name: str, value: str) -> str:
    """The name of a scheduling strategy."""
    if value not in STRATEGIES:
        raise ValueError(
            f"Invalid {name} value {value}. Valid values are {' and '.join(map(repr, STRATEGIES))}"
        )
    return value


def labels(name: str, value: dict[Any, Any]) -> dict[str, str]:
    """Labels and the values that they must have."""
    for key, wanted in value.items():
        if not isinstance(key, str) or not isinstance(wanted, str):
            raise TypeError(
                f"The '{name}' keyword must be of type Dict[str, str], but it has {key!r}: "
                f"{wanted!r}"
            )
        # A key may be prefixed by a domain: `cloud.example/zone`.
        short = key.rpartition("/")[2]
        if not _LABEL_NAME.fullmatch(short):
            raise ValueError(
                f"Invalid label key name `{short}`. Name must be 63 chars or less beginning and "
                "ending with an alphanumeric character ([a-z0-9A-Z]) with dashes (-), "
                "underscores (_), dots (.), and alphanumerics between."
            )
    return dict(value)


def node_labels(name: str, value: dict[Any, Any]) -> dict[str, str]:
    """Labels of a machine, whose values are plain words."""
    for wanted in labels(name, value).values():
        if wanted and not _LABEL_NAME.fullmatch(wanted):
            raise ValueError(
                f"Invalid label value `{wanted}`. Value must be 63 chars or less beginning and "
                "ending with an alphanumeric character ([a-z0-9A-Z]) with dashes (-), "
                "underscores (_), dots (.), and alphanumerics between."
            )
    return dict(value)


def fallbacks(name: str, value: list[Any]) -> tuple[dict[str, str], ...]:
    """The label selectors of a list of fallback strategies."""
    kept = []
    for fallback in value:
        if not isinstance(fallback, dict):
            raise TypeError(
                f"Each item of '{name}' must be a dict with a 'label_selector', not {fallback!r}"
            )
        for key in fallback:
            if key != "label_selector":
                raise ValueError(
                    f"Unsupported option found: {key!r}. Only ['label_selector'] is currently "
                    "supported."
                )
        selector = fallback.get("label_selector")
        if not isinstance(selector, dict):
            raise TypeError(
                f"The type of 'label_selector' in '{name}' must be dict, but received type "
                f"{type(selector).__name__}"
            )
        kept.append(labels("label_selector", selector))
    return tuple(kept)


def not_for_tasks(name: str, _value: object) -> None:
    """Refuse an option that only actors have."""
    raise ValueError(f"Setting '{name}' is not implemented for tasks")
