"""Random programs of tasks, and two machines that run them: plain Python, and CloudRay.

A program is a list of steps, each of which makes values out of earlier ones. Whoever runs it sees
the same values, whatever machine it runs on, failures included.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cloudray as ray

_MODULUS = 1_000_003
_LARGE_BYTES = 150_000


class ProgramError(Exception):
    """What a step of a program raises; the code tells which."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


# -- programs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """A value of an earlier step."""

    number: int

    def __str__(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True)
class Step:
    """One line of a program."""

    #: the feature that it uses
    kind: str
    #: what it defines
    names: tuple[Name, ...]
    #: what it calls, where it calls something
    function: str = ""
    #: names, numbers, and containers of these
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        arguments = [_shown(arg) for arg in self.args]
        arguments += [f"{name}={_shown(value)}" for name, value in self.kwargs]
        options = "".join(f", {name}={value}" for name, value in self.options)
        left = ", ".join(map(str, self.names))
        call = f"{self.function or self.kind}({', '.join(arguments)})"
        return f"{left} = {call}  # {self.kind}{options}"


@dataclass(frozen=True)
class Program:
    """Steps, after values `v0` to `v<inputs - 1>` that it is given."""

    inputs: int
    steps: tuple[Step, ...]

    def all_steps(self) -> Iterator[Step]:
        """The steps of this program and of those it nests."""
        for step in self.steps:
            yield step
            for arg in step.args:
                if isinstance(arg, Program):
                    yield from arg.all_steps()

    @property
    def kinds(self) -> set[str]:
        """The features it uses."""
        return {step.kind for step in self.all_steps()}

    @property
    def values(self) -> int:
        """How many values it makes."""
        return sum(len(step.names) for step in self.all_steps())

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)


def _shown(value: Any) -> str:
    if isinstance(value, Program):
        return "program {\n    " + str(value).replace("\n", "\n    ") + "\n}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return str(value)


# -- what their steps call -----------------------------------------------------------------------


def combine(*numbers: int, factor: int = 31) -> int:
    """One number that depends on all, and on their order."""
    total = 7
    for number in numbers:
        total = (total * factor + number + 1) % _MODULUS
    return total


def split(number: int, parts: int) -> list[int]:
    """Several numbers."""
    return [combine(number, part) for part in range(parts)]


def fail(number: int) -> int:
    """Raise."""
    raise ProgramError(number % _MODULUS)


def flaky(number: int, failures: int) -> int:
    """Raise as often as asked for, then return."""
    if attempt() < failures:
        raise ProgramError(number)
    return combine(number, failures)


def crash(number: int) -> int:
    """Kill the process the first time."""
    if attempt() == 0:
        os._exit(1)
    return combine(number, 99)


def attempt() -> int:
    """How often the running call has failed before."""
    if InPlainPython.attempt is not None:
        return InPlainPython.attempt
    return ray.get_runtime_context().get_attempt_number()


def open_box(box: Any) -> int:
    """Get all that is in a container of containers of values to come."""
    if isinstance(box, dict):
        return combine(*[open_box(item) for item in box.values()])
    if isinstance(box, (list, tuple)):
        return combine(*[open_box(item) for item in box])
    return outcome_of(box) if _is_handle(box) else box


def rescue(box: list[Any]) -> int:
    """The first value in a box, or what became of it."""
    try:
        return combine(value_of(box[0]))
    except ProgramError as error:
        return combine(error.code, 13)


def blow_up(number: int) -> bytes:
    """A large value."""
    return bytes([number % 251]) * _LARGE_BYTES


def weigh(large: bytes, number: int) -> int:
    """A number that depends on a large value."""
    return combine(large[0], len(large), large[-1], number)


def run_nested(program: Program, machine: Machine, *inputs: int) -> int:
    """Run a program within a task, and combine what it makes."""
    return combine(*run(program, machine, inputs))


def hand_over(program: Program, machine: Machine, *inputs: int) -> list[Any]:
    """Run a program within a task, and return its values before they are there."""
    return [value for value in start(program, machine, inputs).values() if _is_handle(value)]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        combine,
        split,
        fail,
        flaky,
        crash,
        open_box,
        rescue,
        blow_up,
        weigh,
        run_nested,
        hand_over,
    )
}


# -- machines ------------------------------------------------------------------------------------


class Later:
    """What stands for a value in plain Python: it is there at once, or it raises."""

    def __init__(self, value: Any, error: ProgramError | None = None) -> None:
        self.value = value
        self.error = error


def _is_handle(value: Any) -> bool:
    return isinstance(value, (Later, ray.ObjectRef))


def value_of(handle: Any) -> Any:
    """The value that a handle of either machine stands for."""
    if not isinstance(handle, Later):
        return ray.get(handle)
    if handle.error is not None:
        raise handle.error
    return handle.value


def outcome_of(handle: Any) -> int:
    """A number for a value or a failure; boxes are opened, large values weighed."""
    try:
        value = value_of(handle) if _is_handle(handle) else handle
    except ProgramError as error:
        return combine(error.code, 17)
    if isinstance(value, bytes):
        return weigh(value, 0)
    return value if isinstance(value, int) else open_box(value)


class Machine(Protocol):
    """What a program runs on."""

    def call(
        self, function: str, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Call a function; returns one handle, or a list of them."""

    def put(self, value: Any) -> Any:
        """A handle for a value."""

    def wait(self, handles: list[Any], number: int) -> tuple[list[Any], list[Any]]:
        """Wait for some of them."""


class InPlainPython:
    """Each call runs when it is made."""

    #: which attempt of a call is running; None outside of this machine
    attempt: int | None = None

    def call(
        self, function: str, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Call it, again if it is to be retried."""
        returns = options.get("num_returns", 1)
        try:
            result = self._try(
                FUNCTIONS[function],
                [value_of(arg) if _is_handle(arg) else arg for arg in args],
                {key: value_of(arg) if _is_handle(arg) else arg for key, arg in kwargs.items()},
                options.get("max_retries", 3) if options.get("retry_exceptions") else 0,
            )
        except ProgramError as error:
            failed = Later(None, error)
            return failed if returns == 1 else [failed] * returns
        return Later(result) if returns == 1 else [Later(item) for item in result]

    def _try(self, function: Any, args: list[Any], kwargs: dict[str, Any], max_retries: int) -> Any:
        outer = InPlainPython.attempt
        # As if the process had died before.
        first = 1 if function is crash else 0
        try:
            for number in range(first, max_retries + 1):
                InPlainPython.attempt = number
                try:
                    return function(*args, **kwargs)
                except ProgramError:
                    if number == max_retries:
                        raise
            InPlainPython.attempt = first
            return function(*args, **kwargs)
        finally:
            InPlainPython.attempt = outer

    def put(self, value: Any) -> Any:
        """It is there."""
        return Later(value)

    def wait(self, handles: list[Any], number: int) -> tuple[list[Any], list[Any]]:
        """All are ready, so these are."""
        return handles[:number], handles[number:]


class OnCloudray:
    """Each call is a task."""

    def call(
        self, function: str, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Submit it."""
        remote: Any = ray.remote(FUNCTIONS[function])
        if options:
            remote = remote.options(**options)
        return remote.remote(*args, **kwargs)

    def put(self, value: Any) -> Any:
        """Store it."""
        return ray.put(value)

    def wait(self, handles: list[Any], number: int) -> tuple[list[Any], list[Any]]:
        """Wait, and check what every wait promises."""
        ready, rest = ray.wait(handles, num_returns=number)
        assert len(ready) == number
        assert [ref for ref in handles if ref in set(ready)] == ready
        assert [ref for ref in handles if ref not in set(ready)] == rest
        return ready, rest


def start(program: Program, machine: Machine, inputs: Sequence[int]) -> dict[Name, Any]:
    """Run the steps; returns what each name stands for: a handle, or a number."""
    known: dict[Name, Any] = {Name(number): value for number, value in enumerate(inputs)}
    for step in program.steps:
        args = [_filled(arg, known) for arg in step.args]
        kwargs = {key: _filled(arg, known) for key, arg in step.kwargs}
        made = _take(step, machine, args, kwargs)
        values = made if len(step.names) > 1 else [made]
        known.update(zip(step.names, values, strict=True))
    return known


def _filled(value: Any, known: dict[Name, Any]) -> Any:
    if isinstance(value, Name):
        return known[value]
    if isinstance(value, list):
        return [_filled(item, known) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, known) for key, item in value.items()}
    return value


def _take(step: Step, machine: Machine, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if step.kind == "put":
        return machine.put(args[0])
    if step.kind == "get":
        return outcome_of(args[0])
    if step.kind == "wait":
        handles = [arg if _is_handle(arg) else machine.put(arg) for arg in args[1]]
        ready, rest = machine.wait(handles, args[0])
        return sum(outcome_of(handle) for handle in (*ready, *rest)) % _MODULUS
    if step.function in ("run_nested", "hand_over"):
        args.insert(1, machine)
    return machine.call(step.function, args, kwargs, dict(step.options))


def run(program: Program, machine: Machine, inputs: Sequence[int] = ()) -> list[int]:
    """The outcomes of all values of a program."""
    return [outcome_of(handle) for handle in start(program, machine, inputs).values()]


# -- making them up ------------------------------------------------------------------------------


@dataclass
class _Author:
    """Writes a program, and keeps in mind what its values are."""

    rng: random.Random
    depth: int
    inputs: int
    steps: list[Step] = field(default_factory=list)
    #: what is certainly a number, and what may fail instead
    numbers: list[Name] = field(default_factory=list)
    doubtful: list[Name] = field(default_factory=list)
    large: list[Name] = field(default_factory=list)
    boxes: list[Name] = field(default_factory=list)
    named: int = 0

    def write(self, length: int) -> Program:
        self.numbers = self.names(self.inputs)
        choices: list[tuple[Callable[[], None], float]] = [
            (self.task, 6),
            (self.several, 2),
            (self.store, 2),
            (self.look, 1),
            (self.contain, 3),
            (self.wait, 2),
            (self.failure, 1),
            (self.rescue, 1),
            (self.retry, 1),
            (self.weigh, 1),
        ]
        if self.depth:
            choices += [(self.nested, 2), (self.handed_over, 1), (self.crash, 0.4)]
        makers, weights = zip(*choices, strict=True)
        self.task()
        while len(self.steps) < length:
            self.rng.choices(makers, weights)[0]()
        return Program(self.inputs, tuple(self.steps))

    # -- choosing ----------------------------------------------------------------------------

    def names(self, number: int) -> list[Name]:
        made = [Name(self.named + offset) for offset in range(number)]
        self.named += number
        return made

    def number(self) -> Any:
        """A value that is a number, or a number."""
        if self.numbers and self.rng.random() < 0.8:
            # Rather a recent one: programs are deep as well as wide.
            return self.numbers[-1 - min(int(self.rng.expovariate(0.2)), len(self.numbers) - 1)]
        return self.rng.randrange(100)

    def any_value(self) -> Any:
        """Any value, also one that fails."""
        pool = [*self.numbers, *self.doubtful, *self.large, *self.boxes]
        return self.rng.choice(pool) if pool else self.rng.randrange(100)

    def options(self, **more: Any) -> tuple[tuple[str, Any], ...]:
        if self.rng.random() < 0.3:
            more["num_cpus"] = self.rng.choice([0.5, 1, 2])
        if self.rng.random() < 0.2:
            more.setdefault("max_retries", self.rng.choice([0, 1]))
        return tuple(more.items())

    def add(self, kind: str, function: str, *args: Any, **more: Any) -> list[Name]:
        names = self.names(more.pop("names", 1))
        kwargs = tuple(more.pop("kwargs", {}).items())
        options = more.pop("options", ())
        self.steps.append(Step(kind, tuple(names), function, args, kwargs, options))
        return names

    # -- steps -------------------------------------------------------------------------------

    def task(self) -> None:
        args = [self.number() for _ in range(self.rng.randint(0, 4))]
        kwargs = {"factor": self.number()} if self.rng.random() < 0.2 else {}
        self.numbers += self.add("task", "combine", *args, kwargs=kwargs, options=self.options())

    def several(self) -> None:
        parts = self.rng.randint(2, 4)
        options = self.options(num_returns=parts)
        self.numbers += self.add(
            "several returns", "split", self.number(), parts, names=parts, options=options
        )

    def store(self) -> None:
        if self.rng.random() < 0.5 and self.numbers:
            self.boxes += self.add("put", "", [self.any_value(), self.rng.randrange(9)])
        else:
            self.numbers += self.add("put", "", self.rng.randrange(100))

    def look(self) -> None:
        self.numbers += self.add("get", "", self.any_value())

    def contain(self) -> None:
        box: Any = [self.any_value() for _ in range(self.rng.randint(1, 4))]
        if self.rng.random() < 0.3:
            box = {"a": box, "b": [self.any_value(), [self.number()]]}
        self.numbers += self.add("container of refs", "open_box", box, options=self.options())

    def wait(self) -> None:
        pool = list(dict.fromkeys(self.any_value() for _ in range(self.rng.randint(1, 5))))
        pool = [value for value in pool if isinstance(value, Name)] or [self.rng.randrange(9)]
        self.numbers += self.add("wait", "", self.rng.randint(1, len(pool)), pool)

    def failure(self) -> None:
        (failed,) = self.add("failure", "fail", self.number(), options=self.options())
        self.doubtful.append(failed)
        if self.rng.random() < 0.7:
            # It takes what depends on it down with it.
            args = [self.number(), failed, self.number()]
            self.doubtful += self.add("failure", "combine", *args, options=self.options())

    def rescue(self) -> None:
        if not self.doubtful:
            self.failure()
        failed = self.rng.choice(self.doubtful)
        self.numbers += self.add("failure", "rescue", [failed], options=self.options())

    def retry(self) -> None:
        failures = self.rng.randint(1, 2)
        options = self.options(retry_exceptions=True, max_retries=self.rng.randint(1, 3))
        enough = dict(options)["max_retries"] >= failures
        made = self.add("retry", "flaky", self.number(), failures, options=options)
        (self.numbers if enough else self.doubtful).extend(made)

    def crash(self) -> None:
        options = (("max_retries", self.rng.randint(1, 2)),)
        self.numbers += self.add("crash", "crash", self.number(), options=options)

    def weigh(self) -> None:
        if not self.large or self.rng.random() < 0.3:
            self.large += self.add("large value", "blow_up", self.number(), options=self.options())
        large = self.rng.choice(self.large)
        self.numbers += self.add("large value", "weigh", large, self.number())

    def part(self) -> tuple[Program, list[Any]]:
        inputs = [self.number() for _ in range(self.rng.randint(0, 3))]
        author = _Author(self.rng, self.depth - 1, len(inputs))
        return author.write(self.rng.randint(2, 6)), inputs

    def nested(self) -> None:
        program, inputs = self.part()
        self.numbers += self.add(
            "nested task", "run_nested", program, *inputs, options=self.options()
        )

    def handed_over(self) -> None:
        program, inputs = self.part()
        self.boxes += self.add("nested task", "hand_over", program, *inputs, options=self.options())


def write_program(seed: int) -> Program:
    """The program of this seed: always the same."""
    rng = random.Random(seed)
    return _Author(rng, 2, 0).write(rng.randint(10, 40))
