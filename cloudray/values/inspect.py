"""Say which member of a value cannot be pickled, instead of only that it cannot."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

_MAX_DEPTH = 6


def why_not_picklable(value: object, what: str, error: BaseException) -> str:
    """One sentence with the path to the culprit, e.g. ``value['lock']``."""
    path, culprit = _culprit(value, what, 0, set())
    reason = str(error) or type(error).__name__
    return (
        f"cannot pickle {what}: {path} is a {type(culprit).__module__}."
        f"{type(culprit).__qualname__} ({reason}). Make it inside the task, pass what it is made "
        "from, or keep it out of the function's closure."
    )


def _fails(value: object) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever pickling raises, it failed
        return True
    return False


def _culprit(value: object, path: str, depth: int, seen: set[int]) -> tuple[str, object]:
    if depth < _MAX_DEPTH and id(value) not in seen:
        seen.add(id(value))
        for name, member in _members(value, path):
            if _fails(member):
                return _culprit(member, name, depth + 1, seen)
    return path, value


def _members(value: Any, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield f"{path}[{key!r}]", member
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, member in enumerate(value):
            yield f"{path}[{index}]", member
    elif isinstance(value, types.FunctionType):
        yield from _variables(value, path)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
        for name, member in vars(value).items():
            yield f"{path}.{name}", member


def _variables(function: types.FunctionType, path: str) -> Iterator[tuple[str, object]]:
    import inspect

    try:
        free = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return
    for kind, names in (("closure", free.nonlocals), ("global", free.globals)):
        for name, member in names.items():
            yield f"{path}'s {kind} variable '{name}'", member
    for index, member in enumerate(function.__defaults__ or ()):
        yield f"{path}'s default argument {index}", member
