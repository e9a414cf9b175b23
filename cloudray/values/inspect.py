"""Say which member of a value cannot be pickled, and what to do, instead of only that it cannot."""

from __future__ import annotations

import functools
import io
import pickle
import re
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

from cloudray.context import Contained
from cloudray.exceptions import RaySystemError
from cloudray.values.pickling import PROTOCOL, pickler

#: So many members are looked at for the way to the culprit.
_MAX_MEMBERS = 1_000_000
#: The middle of a longer path is left out.
_MAX_NAMES = 20
#: So many values are pickled once more, in order to find the one that fails.
_MAX_TRIALS = 30
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray)
#: What pickle says of a type that it does not know: no news, where the type is named anyway.
_NO_NEWS = re.compile(r"cannot pickle '[^']*' (object|instances)|can't pickle [\w.]+ objects?")
_MADE_INSIDE = (
    "Make it inside the task, pass what it is made from, or keep it out of the function's closure."
)
_ADVICE: dict[type, str] = {
    types.GeneratorType: "Pass what it yields, as a list.",
    types.AsyncGeneratorType: "Pass what it yields, as a list.",
    types.CoroutineType: "Await it, and pass what it returns.",
}
_ITSELF = "it"
#: Where `not_unpickled` says that it failed, when it was in an executor.
ON_WORKER = "on the worker"
_WITHOUT_ATTRIBUTES = frozenset(
    {dict, list, tuple, set, frozenset, types.FunctionType, types.ModuleType}
)
_OPEN_FILE = "Pass its path, and open it inside the task."


def why_not_picklable(value: object, what: str, error: BaseException) -> str:
    """Two sentences: the way to the culprit, e.g. ``its member ['lock']``, and what to do.

    `what` names the value; `error` is what pickling it raised.
    """
    path, culprit = _find(value)
    kind = culprit if isinstance(culprit, type) else type(culprit)
    name = _name(kind)
    article = "the class" if isinstance(culprit, type) else "an" if name[0] in "aeiou" else "a"
    return (
        f"cannot pickle {what}: {path} is {article} {name}{_reason(error, kind)}. "
        f"{_advice(culprit)}"
    )


def refusal(value: object, what: str, error: Exception) -> TypeError | pickle.PicklingError:
    """The error to raise, from its own `__cause__`, when pickling a value raised `error`.

    A `PicklingError` when it is nested too deeply, as pickle has it, and a TypeError otherwise.
    """
    from cloudray.causes import with_frames_of_theirs

    cause = with_frames_of_theirs(error)
    refused: TypeError | pickle.PicklingError
    if isinstance(error.__cause__ or error, RecursionError):
        refused = pickle.PicklingError(
            f"cannot pickle {what}: it is nested too deeply. Make it flatter, for example a list "
            "of nodes that name each other by number, or raise sys.setrecursionlimit()."
        )
    else:
        refused = TypeError(why_not_picklable(value, what, error))
    refused.__cause__ = cause
    return refused


def not_unpickled(what: str, where: str, error: Exception) -> RaySystemError:
    """The error to raise, from its own `__cause__`, when unpickling a value raised `error`.

    `what` names the value and `where` the process, e.g. ``in this process``.

    >>> str(not_unpickled("it", "here", KeyError("x"))).partition(".")[0]
    "it could not be unpickled here (KeyError: 'x')"
    """
    from cloudray.causes import with_frames_of_theirs

    missing = missing_module(error) if where == ON_WORKER else ""
    if missing:
        advice = missing
    elif isinstance(error, (ImportError, AttributeError)):
        advice = "What its class is imported from must be there too, in the same version."
    else:
        advice = "Its class has a __setstate__, __reduce__ or constructor that failed."
    raised = RaySystemError(
        message=f"{what} could not be unpickled {where} ({told(error)}). {advice}"
    )
    raised.__cause__ = with_frames_of_theirs(error)
    return raised


def missing_module(error: BaseException) -> str:
    """What to do about a module that is not on this machine; empty for any other error.

    >>> missing_module(ModuleNotFoundError("No module named 'tea'", name="tea")).split(" on ")[0]
    "There is no module 'tea'"
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.partition(".")[0]
    if top in sys.modules:
        # The package is here; another version of it may have that module.
        return (
            f"The package {top!r} is there on {socket.gethostname()}, but has no {error.name!r}: "
            "it must be the same version as where this was submitted."
        )
    return (
        f"There is no module {top!r} on {socket.gethostname()}: install it where the workers run, "
        f"or send it along with runtime_env={{'py_modules': ['path/of/{top}']}} (a package's "
        "folder, a module's file, or a wheel)."
    )


def _name(kind: type) -> str:
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _reason(error: BaseException, kind: type) -> str:
    is_pickles = type(error) in {TypeError, pickle.PicklingError}
    text = _message(error) if is_pickles else told(error)
    is_news = kind.__name__ not in text or not _NO_NEWS.fullmatch(text)
    return f" ({text})" if is_news else ""


def told(error: BaseException) -> str:
    """An exception's class and message, whatever its class makes of `str`.

    >>> told(KeyError("x"))
    "KeyError: 'x'"
    """
    name, text = type(error).__name__, _message(error)
    return f"{name}: {text}" if text else name


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the exception's class is the user's
        return "it has no message, its __str__ fails"


def _advice(culprit: object) -> str:
    if isinstance(culprit, io.IOBase):
        return _OPEN_FILE
    return next((text for kind, text in _ADVICE.items() if isinstance(culprit, kind)), _MADE_INSIDE)


def _find(value: object) -> tuple[str, object]:
    """The path to the innermost value that cannot be pickled, and that value."""
    met = _met(value)
    if not met:
        return _ITSELF, value
    paths = _Paths(value, {id(one) for one in met})
    culprit = met[-1]
    path = paths.to(culprit)
    if path is not None and _fails(culprit):
        return path, culprit
    # It was made while it was pickled, by a __reduce__ or __getstate__: who has that, fails too.
    trials = 0
    for one in reversed(met):
        path = paths.to(one)
        if path is None:
            continue
        if one is value or trials >= _MAX_TRIALS:
            break
        trials += 1
        if _fails(one):
            return path, one
    return _ITSELF, value


def _met(value: object) -> list[object]:
    """What a pickler meets in a value until it fails, in that order; all of it kept alive."""
    met: list[object] = []

    class Tracing(pickler()):  # type: ignore[misc] # made when it is first needed
        def persistent_id(self, one: object) -> None:
            if type(one) not in _ATOMS and len(met) < _MAX_MEMBERS:
                met.append(one)

    _dump(Tracing, value)
    return met


def _fails(value: object) -> bool:
    return not _dump(pickler(), value)


def _dump(kind: Any, value: object) -> bool:
    """Whether a value can be pickled; no ref inside it escapes."""
    with Contained():
        try:
            kind(_Nowhere, PROTOCOL, buffer_callback=_drop).dump(value)
        except Exception:  # noqa: BLE001 - whatever pickling raises, it failed
            return False
    return True


def _drop(_buffer: object) -> None:
    """Take what is pickled, and forget it."""


class _Nowhere:
    """The file that it is written to."""

    write = _drop


class _Paths:
    """The ways from a value to its members, as far as a pickler went."""

    def __init__(self, value: object, met: set[int]) -> None:
        #: by a member's id: the id of the value that has it, and its name there
        self._parents: dict[int, tuple[int, str]] = {}
        self._value = id(value)
        self._alive = [value]
        for one in self._alive:
            try:
                self._look_into(one, met)
            except Exception:  # noqa: BLE001, S112 - what it has not told of is not found
                continue

    def _look_into(self, one: object, met: set[int]) -> None:
        for name, member in _members(one):
            key = id(member)
            if key in met and key not in self._parents and key != self._value:
                self._parents[key] = (id(one), name)
                self._alive.append(member)

    def to(self, member: object) -> str | None:
        """The path to a member, or None when none leads there."""
        names: list[str] = []
        key = id(member)
        while key != self._value:
            if key not in self._parents:
                return None
            key, name = self._parents[key]
            names.append(name)
        return _joined(names[::-1])


def _joined(names: list[str]) -> str:
    if len(names) > _MAX_NAMES:
        names = [*names[: _MAX_NAMES // 2], "[...]", *names[-_MAX_NAMES // 2 :]]
    path = _ITSELF
    for name in names:
        if path is _ITSELF:
            path = f"its member {name}" if name[0] in "[." else f"its {name}"
        else:
            path += name if name[0] in "[." else f"'s {name}"
    return path


def _members(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield f"[{_short(key)}]", member
            if type(key) not in _ATOMS:
                yield f"key {_short(key)}", key
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, member in enumerate(value):
            yield f"[{index}]", member
    elif isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, type):
        for name, member in vars(value).items():
            yield f".{name}", getattr(member, "__func__", member)
    if type(value) not in _WITHOUT_ATTRIBUTES and not isinstance(value, type):
        yield from _attributes(value)


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, functools.partial):
        # These are not in its __dict__.
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    if isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
        return
    for name, member in getattr(value, "__dict__", {}).items():
        if name == "__wrapped__":
            continue
        # What a remote function wraps is the function, whatever the attribute is called.
        yield ("function" if isinstance(member, types.FunctionType) else f".{name}"), member
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
    yield "class", type(value)


def _variables(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure variable '{name}'", cell.cell_contents
        except ValueError:  # it has not been set yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f"global variable '{name}'", function.__globals__[name]
    for index, member in enumerate(function.__defaults__ or ()):
        yield f"default argument {index}", member
    for name, member in (function.__kwdefaults__ or {}).items():
        yield f"default argument '{name}'", member
    for name, member in vars(function).items():
        yield f".{name}", member


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _short(value: object) -> str:
    import reprlib

    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - a key's class may raise anything
        return f"a {type(value).__name__}"
