"""An exception as something that can travel: its traceback as text, itself as bytes.

Pickle calls an exception's class with its `args`, which fails, or quietly garbles the message,
for every class whose constructor takes something else, and it forgets `__slots__`. Here an
exception whose class does not say itself how it is pickled is rebuilt from its parts, without
calling its constructor, as what it was.

Nothing here knows an error of ours.
"""

from __future__ import annotations

import io
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import GetSetDescriptorType, MemberDescriptorType, new_class
from typing import Any
from weakref import WeakValueDictionary

import cloudpickle

PROTOCOL = 5
_OURS = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, cloudpickle.__file__))
#: Where user code is called.
_RUNNER = str(Path(__file__).parent / "executor" / "run.py")
#: Of a traceback with more frames than this, so many at its beginning and end are shown.
_MANY, _FIRST, _LAST = 60, 10, 20
_HEAP_TYPE = 1 << 9  # set in the flags of classes that Python code made


def format_traceback(error: BaseException, *, is_refusal: bool = False) -> str:
    """The traceback of an exception and its causes as Python prints it, without our frames.

    A traceback that has no other frames than ours keeps them: then the mistake is ours. Unless it
    `is_refusal`, an error that we raise about something of the user's: its message says it all.
    Everything is shown where the environment says CLOUDRAY_TRACEBACK=full; else, of a deep
    recursion, only the beginning and the end.

    >>> print(format_traceback(ValueError("no such colour")))
    ValueError: no such colour
    """
    printed = traceback.TracebackException.from_exception(error, compact=True)
    full = os.environ.get("CLOUDRAY_TRACEBACK") == "full"
    for part in _linked(printed):
        if full or part.stack is None:
            continue
        theirs = _theirs(part.stack)
        part.stack = _Folded(theirs if theirs or is_refusal else part.stack)
    return "".join(printed.format()).rstrip("\n")


def with_frames_of_theirs(error: BaseException) -> BaseException | None:
    """The exception, if its traceback leads through the user's code: else it tells nothing more.

    For the cause of an error whose message has the reason already.
    """
    trace = error.__traceback__
    while trace is not None:
        if _is_theirs(trace.tb_frame.f_code.co_filename):
            return error
        trace = trace.tb_next
    return None


class _Folded(traceback.StackSummary):
    """Frames of which, where there are very many, those in the middle are only counted."""

    def format(self, *args: Any, **options: Any) -> list[str]:
        """One text per frame, as it is printed."""
        lines = super().format(*args, **options)
        if len(lines) <= _MANY:
            return lines
        left_out = len(lines) - _FIRST - _LAST
        return [*lines[:_FIRST], f"  ... {left_out} frames ...\n", *lines[-_LAST:]]


def _theirs(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """The frames from where user code was called, without ours among them."""
    ran = max((at for at, frame in enumerate(stack) if frame.filename == _RUNNER), default=-1)
    # Before the last of our frames may stand those of an event loop that runs a coroutine.
    for frames in (stack[ran + 1 :], stack):
        theirs = [frame for frame in frames if _is_theirs(frame.filename)]
        if theirs:
            return theirs
    return []


def _is_theirs(filename: str) -> bool:
    return not filename.startswith((*_OURS, "<frozen "))


def _linked(printed: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    waiting = [printed]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += part.exceptions or ()
        waiting += [other for other in (part.__cause__, part.__context__) if other]


def dumps(error: BaseException) -> bytes:
    """Pickle an exception so that `loads` gives it back, which is tried at once.

    Raises whatever pickling or unpickling raised when neither way of doing it works.

    >>> loads(dumps(KeyError("colour")))
    KeyError('colour')
    """
    try:
        return _dump_and_try(error, all_by_parts=False)
    except Exception as first:  # noqa: BLE001 - its class is the user's and may raise anything
        try:
            return _dump_and_try(error, all_by_parts=True)
        except Exception:  # noqa: BLE001 - as above; the first way's reason says more
            raise first from None


def loads(body: bytes) -> Any:
    """The exception that `dumps` was given. Raises whatever unpickling it raises."""
    return pickle.loads(body)


def rebuild(
    error_class: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """An exception of this class with these `args` and attributes.

    No constructor written in Python is called.

    >>> rebuild(OSError, (2, "No such file"), {}).errno
    2
    """
    builtin = _builtin_base(error_class)
    error = builtin.__new__(error_class, *args)
    builtin.__init__(error, *args)
    # Neither a property nor a __setattr__ of the class (it may be frozen) has a say in this.
    elsewhere = fields_outside_dict(error_class)
    for name, value in state.items():
        if name in elsewhere:
            elsewhere[name].__set__(error, value)
        else:
            error.__dict__[name] = value
    return error


def fields_outside_dict(
    error_class: type[BaseException],
) -> dict[str, MemberDescriptorType | GetSetDescriptorType]:
    """The attributes that are not in an exception's `__dict__`: those of C classes, and slots.

    >>> sorted(fields_outside_dict(StopIteration))
    ['value']
    """
    return {
        name: member
        for base in reversed(error_class.__mro__)
        if base not in (object, BaseException, Exception)
        for name, member in vars(base).items()
        if isinstance(member, (MemberDescriptorType, GetSetDescriptorType))
        and name not in {"__dict__", "__weakref__"}
    }


#: What `class_of_both` made, by both classes; each lives as long as something uses it.
_both: WeakValueDictionary[tuple[type, type], type[BaseException]] = WeakValueDictionary()


def class_of_both(
    error_class: type[BaseException], cause_class: type[BaseException]
) -> type[BaseException]:
    """A class named like `RayTaskError(ValueError)` that inherits from both, made once.

    Its instances have a `.cause`, where they find what they do not have themselves. Raises
    whatever the cause's class, its metaclass or Python says to a class that cannot be.
    """
    known = _both.get((error_class, cause_class))
    if known is not None:
        return known
    body: dict[str, Any] = {
        field: _field_of_cause(field)
        for field in fields_outside_dict(cause_class)
        if not hasattr(error_class, field)
    }
    body |= {"__module__": error_class.__module__, "__getattr__": _attribute_of_cause}
    made = new_class(
        f"{error_class.__name__}({cause_class.__name__})",
        (error_class, cause_class),
        exec_body=lambda namespace: namespace.update(body),
    )
    return _both.setdefault((error_class, cause_class), made)


def _field_of_cause(field: str) -> property:
    # An instance has such a field of its own, empty, so `__getattr__` would not be asked.
    return property(
        lambda self: getattr(self.cause, field),
        lambda self, value: setattr(self.cause, field, value),
    )


def _attribute_of_cause(self: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(self.cause, name)


def _dump_and_try(error: BaseException, *, all_by_parts: bool) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, all_by_parts=all_by_parts).dump(error)
    body = stream.getvalue()
    pickle.loads(body)
    return body


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """Pickles exceptions by their parts, also those inside a group or an attribute."""

    def __init__(self, stream: io.BytesIO, *, all_by_parts: bool) -> None:
        super().__init__(stream, PROTOCOL)
        self._all = all_by_parts

    def reducer_override(self, value: Any) -> Any:
        """How to pickle a value: for an exception, as a call of `rebuild`."""
        kind = type(value)
        if issubclass(kind, BaseException) and (self._all or not _says_how_it_is_pickled(kind)):
            return rebuild, (kind, *_parts_of(value))
        return super().reducer_override(value)


def _parts_of(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A builtin class knows what restores its fields: OSError adds its filename to the arguments,
    # ImportError says its names as state.
    reduced: Any = _builtin_base(type(error)).__reduce__(error)
    _, args, *more = reduced
    state: dict[str, Any] = {}
    for part in (*more, object.__getstate__(error)):
        for attributes in part if isinstance(part, tuple) else (part,):
            state |= attributes or {}
    return args, state


def _says_how_it_is_pickled(error_class: type[BaseException]) -> bool:
    return any(
        name in vars(base)
        for base in error_class.__mro__
        if base.__flags__ & _HEAP_TYPE
        for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    )


def _builtin_base(error_class: type[BaseException]) -> type[BaseException]:
    """The class written in C whose memory layout this class extends."""
    base: Any = error_class
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    found: type[BaseException] = base
    return found
