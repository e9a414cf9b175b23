"""The generators of random numbers that all code of a process shares: `random`, NumPy, torch.

A forked process begins with a copy of them, and `from random import random` makes a function
carry one along by value. Either way two tasks would draw the same numbers, so executors seed
them afresh, and such functions name the generator of the process that runs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from cloudray.watching import named, watch

#: The generators that functions of these modules are methods of: module and name.
PYTHON, NUMPY = ("random", "_inst"), ("numpy.random.mtrand", "_rand")
#: Functions after which a generator yields what it has yielded before, here or elsewhere.
_SEEDING = {PYTHON: ("seed", "setstate"), NUMPY: ("seed", "set_state")}


def shared(module: str, name: str) -> Any:
    """The generator that this process has by this name.

    >>> import random
    >>> shared(*PYTHON) is random.random.__self__
    True
    """
    return named(module, name)


class SeedWatch:
    """Gives a process its own random numbers, and each task some that no seed of another chose.

    It stands between users and the functions that seed a generator, which costs nothing until
    one of those is called.
    """

    def __init__(self) -> None:
        #: a generator has been seeded, or may have been, since the last `undo`
        self.seeded = False
        self._generators: list[Any] = []
        self._unwatched = tuple(_SEEDING)
        if "torch" in sys.modules:
            # No task has loaded it, so it is the copy of another process's.
            sys.modules["torch"].seed()
        self.undo()

    def undo(self) -> None:
        """Seed the generators afresh if somebody has seeded one meanwhile."""
        for name in self._unwatched:
            if name[0] in sys.modules:
                self._watch(name)
        if self.seeded:
            for generator in self._generators:
                generator.seed()
            self.seeded = False

    def _watch(self, name: tuple[str, str]) -> None:
        module: Any = sys.modules[name[0]]
        functions = _SEEDING[name]
        if not all(hasattr(module, wanted) for wanted in (name[1], *functions)):
            return  # it is being loaded right now, or is a user's that has the same name
        self._unwatched = tuple(other for other in self._unwatched if other != name)
        generator = getattr(module, name[1])
        self._generators.append(generator)
        # Whoever has loaded it may have seeded it too.
        self.seeded = True
        # Functions that were pickled elsewhere find them at the generator.
        also = [generator] if name == PYTHON else [import_module("numpy.random")]
        watch(name[0], functions, self._note, also)

    def _note(self, _name: str, _args: tuple[Any, ...]) -> None:
        self.seeded = True
