"""What simulated tasks do: a tiny language, and what its programs come to.

A task sleeps, calls other tasks and waits for them, and returns its number plus the numbers of its
arguments and children; or it fails, or ends its executor. Its value names the run that made it, so
that two runs of one task can be told apart, and readers that saw different ones do not agree.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from cloudray.protocol.buffer import Prepared
from cloudray.protocol.demand import class_of
from cloudray.protocol.records import Shape

#: One CPU, in ten-thousandths.
_CPU = {"CPU": 10_000}


class Program(msgspec.Struct, frozen=True, array_like=True):
    """What one task does."""

    #: names the task in the whole world
    key: str
    #: how long it runs, beside waiting for its children, in microseconds
    sleep_us: int = 0
    #: what it adds to its value
    number: int = 0
    #: it raises
    fails: bool = False
    #: so many of its runs end their executor
    kills: int = 0
    #: its value is written to a file first, as large ones are
    is_large: bool = False
    #: attempts after the first; -1: no limit
    max_retries: int = -1
    #: called before it sleeps, and waited for
    children: tuple[Program, ...] = ()


class Value(msgspec.Struct, frozen=True, array_like=True):
    """What a task returns."""

    number: int
    key: str
    #: which run of the task made it
    run: int


def total(program: Program, arguments: int = 0) -> int | None:
    """The number that a program comes to, given the sum of its arguments; None if it fails."""
    children = [total(child) for child in program.children]
    if program.fails or None in children:
        return None
    return program.number + arguments + sum(child for child in children if child is not None)


def may_crash(program: Program) -> bool:
    """Whether a program, or a child of it, has a limited number of attempts."""
    return program.max_retries >= 0 or any(may_crash(child) for child in program.children)


def count(program: Program) -> int:
    """How many tasks a program is."""
    return 1 + sum(count(child) for child in program.children)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Program)

encode = _encoder.encode
decode = _decoder.decode


class Options(msgspec.Struct, frozen=True):
    """Stands in for the options of a call: nothing is asked for."""

    wishes: None = None


class Simulated:
    """Stands in for a remote function: tells what `DriverClient.prepare` asks for.

    >>> prepared, pickled = Simulated("simulated", 3).prepared(None)
    >>> prepared.shape.max_retries, pickled
    (3, b'simulated')
    """

    def __init__(self, name: str, max_retries: int) -> None:
        self._name = name
        self._max_retries = max_retries

    def prepared(self, options: object, code: object = None) -> tuple[Prepared, bytes]:
        """Its shape and class, and what stands for its pickle."""
        del options, code
        return prepare(self._name, self._max_retries), self._name.encode()


@lru_cache
def prepare(name: str, max_retries: int) -> Prepared:
    """A function of one CPU."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    shape = Shape(digest, name, 1, _CPU, max_retries, function_name=name)
    return Prepared(
        shape, class_of(_CPU), 5, once=max_retries == 0, demand=tuple(sorted(_CPU.items()))
    )
