"""Whether a call fits a function, told at the call and not when it runs elsewhere."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

_Checker = Callable[..., None]


class Signature:
    """The parameters of one function.

    A call without keywords fits if it has from `min_positional` to `max_positional` arguments,
    so a caller can decide the common case itself and leave the rest to `check`:

        if kwargs or not signature.min_positional <= len(args) <= signature.max_positional:
            signature.check(args, kwargs)

    >>> def f(a, b=1): ...
    >>> signature = Signature.of(f)
    >>> signature.min_positional, signature.max_positional
    (1, 2)
    >>> signature.check((), {})
    Traceback (most recent call last):
    TypeError: f() missing 1 required positional argument: 'a'
    """

    __slots__ = ("_checker", "_name", "_parameters", "max_positional", "min_positional", "names")

    def __init__(self, name: str, parameters: Sequence[Parameter] | None) -> None:
        #: the fewest arguments of a call without keywords that fits; more than `max_positional`
        #: when there is no such call
        self.min_positional = 0
        #: the most
        self.max_positional = sys.maxsize
        #: of the parameters that take arguments by position, in their order
        self.names: tuple[str, ...] = ()
        self._name = name
        self._parameters = parameters
        self._checker: _Checker | None = None
        if parameters is not None:
            self._count(parameters)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """The signature of a function; of one that tells none, a signature that fits any call.

        As `inspect.signature` does, it looks through `functools.wraps` and `functools.partial`.
        """
        try:
            parameters = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # a builtin, or a __signature__ that is none
            return cls("", None)
        return cls(_name_of(function), parameters)

    def _count(self, parameters: Sequence[Parameter]) -> None:
        positional = [
            parameter
            for parameter in parameters
            if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self.names = tuple(parameter.name for parameter in positional)
        kinds = {parameter.kind for parameter in parameters}
        self.min_positional = sum(1 for found in positional if found.default is Parameter.empty)
        if Parameter.VAR_POSITIONAL not in kinds:
            self.max_positional = len(positional)
        if any(
            parameter.kind is Parameter.KEYWORD_ONLY and parameter.default is Parameter.empty
            for parameter in parameters
        ):
            self.min_positional, self.max_positional = 1, 0

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise the TypeError that calling the function with these arguments would raise."""
        if self._parameters is None:
            return
        if self._checker is None:
            self._checker = _compile(self._name, self._parameters)
        try:
            self._checker(*args, **kwargs)
        except TypeError as error:
            # Without the frames of the checker: they mean nothing to the reader.
            raise TypeError(*error.args) from None


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _compile(name: str, parameters: Sequence[Parameter]) -> _Checker:
    """A function with the same parameters that does nothing: Python itself checks its calls.

    So errors have Python's own words, and a check costs what a call costs.
    """
    bare = [
        parameter.replace(
            annotation=Parameter.empty,
            default=Parameter.empty if parameter.default is Parameter.empty else None,
        )
        for parameter in parameters
    ]
    namespace: dict[str, Any] = {}
    source = f"def checker{inspect.Signature(bare)}: pass"
    exec(source, namespace)  # noqa: S102 - of parameter names, which inspect has validated
    checker: _Checker = namespace["checker"]
    checker.__qualname__ = name  # which is how Python's messages call it
    return checker
