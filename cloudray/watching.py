"""Functions of other libraries that say when they are called, so that nobody needs to look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any


class Watched:
    """Stands in the place of a function, and calls it after `note` with its name and arguments."""

    def __init__(
        self,
        function: Callable[..., Any],
        module: str,
        name: str,
        note: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        #: the function itself
        self.__wrapped__ = function
        self.__module__ = module
        self.__name__ = self.__qualname__ = name
        self.__doc__ = function.__doc__
        self._note = note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function itself returns or raises."""
        self._note(self.__name__, args)
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        # Where it arrives, whatever stands there is meant.
        return named, (self.__module__, self.__name__)


def named(module: str, name: str) -> Any:
    """What a module has under a name.

    >>> named("math", "tau") > 6
    True
    """
    return getattr(import_module(module), name)


def watch(
    module: str,
    names: Iterable[str],
    note: Callable[[str, tuple[Any, ...]], None],
    also: Iterable[Any] = (),
) -> None:
    """Watch functions of a module, where it has them; `also` are other places that show them."""
    home = import_module(module)
    for name in names:
        function = getattr(home, name, None)
        if function is None:
            continue
        watched = Watched(getattr(function, "__wrapped__", function), module, name, note)
        for place in (home, *also):
            setattr(place, name, watched)
