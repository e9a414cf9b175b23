"""What simulated drivers do: submit a mix of programs, wait, cancel some, and read the results."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from cloudray.exceptions import RayError
from cloudray.refs import ObjectRef
from cloudray.testing import programs
from cloudray.testing.programs import Program, Simulated, Value

if TYPE_CHECKING:
    from cloudray.driver.client import DriverClient
    from cloudray.testing.actors import SimulatedDriver


#: How deep tasks call tasks, at most.
_DEPTH = 3
#: What is odd about a task, and how often (in percent).
_ODDITIES = ("", "fails", "kills", "large", "once")
_WEIGHTS = (87, 2, 3, 3, 5)


class Submitted(msgspec.Struct):
    """A task that a driver has submitted, and what it has heard of it."""

    ref: ObjectRef[Any]
    program: Program
    depends_on: tuple[Submitted, ...]
    #: its driver has tried to cancel it
    cancelled: bool = False
    #: its value, as its driver has read it
    value: Value | None = None
    #: or why it has none
    error: RayError | None = None

    def expected(self, known: dict[bytes, int | None]) -> int | None:
        """The number it comes to; None if it fails. `known` is filled on the way."""
        if self.ref.id not in known:
            arguments = [one.expected(known) for one in self.depends_on]
            known[self.ref.id] = (
                None if None in arguments else programs.total(self.program, sum(arguments))  # type: ignore[arg-type]
            )
        return known[self.ref.id]

    def may_fail(self, known: dict[bytes, bool]) -> bool:
        """Whether it may have failed because it was cancelled, or its attempts were used up."""
        if self.ref.id not in known:
            known[self.ref.id] = (
                self.cancelled
                or programs.may_crash(self.program)
                or any(one.may_fail(known) for one in self.depends_on)
            )
        return known[self.ref.id]


class Script:
    """One driver's script, drawn from a seed."""

    def __init__(self, rng: Random, number: int, tasks: int, span_s: float) -> None:
        self.submitted: list[Submitted] = []
        #: it has read all results
        self.read = False
        self._rng = rng
        self._number = number
        self._left = tasks
        self._span_s = span_s
        self._serial = 0

    def run(self, driver: SimulatedDriver, client: DriverClient) -> None:
        """What the driver's main thread does."""
        del driver
        rng = self._rng
        while self._left > 0:
            self._group(client)
            if _happens(rng, 0.3):
                client.get([], None)
                client.wait([self.submitted[-1].ref], 1, rng.uniform(0.0, self._span_s / 3))
            if _happens(rng, 0.15):
                self._cancel(client)
        if _happens(rng, 0.3):
            self._cancel(client)
        refs = [one.ref for one in self.submitted]
        client.wait(refs, len(refs), None)
        for one in self.submitted:
            try:
                one.value = client.get([one.ref], None)[0]
            except RayError as error:
                one.error = error
        self.read = True

    def _cancel(self, client: DriverClient) -> None:
        one = self._rng.choice(self.submitted)
        one.cancelled = True
        client.cancel(one.ref, force=_happens(self._rng, 0.3), recursive=True)

    def _group(self, client: DriverClient) -> None:
        rng = self._rng
        style = rng.choice(("tiny", "tiny", "long", "chain", "once", "nested", "mixed"))
        size = min(
            self._left, rng.randint(1, 40) if style in ("tiny", "mixed") else rng.randint(1, 8)
        )
        for _ in range(size):
            program = self._program(style)
            depends_on: tuple[Submitted, ...] = ()
            if style == "chain" or (style == "mixed" and _happens(rng, 0.3)):
                before = self.submitted[-12:]
                depends_on = tuple(rng.sample(before, min(len(before), rng.randint(0, 2))))
            self._submit(client, program, depends_on)

    def _submit(
        self, client: DriverClient, program: Program, depends_on: tuple[Submitted, ...]
    ) -> None:
        prepared = client.prepare(Simulated("simulated", program.max_retries), programs.Options())
        names = tuple(one.ref.id for one in depends_on)
        ref = client.submit(prepared, programs.encode(program), b"", names, ())
        self.submitted.append(Submitted(ref, program, depends_on))
        self._left -= programs.count(program)

    def _program(self, style: str, depth: int = 0) -> Program:
        rng = self._rng
        self._serial += 1
        sleep_us = rng.choice((0, 1_000, 5_000))
        if style == "long":
            sleep_us = rng.randint(100_000, 2_500_000)
        elif style in ("once", "mixed"):
            sleep_us = rng.choice((0, 1_000, 50_000, 300_000))
        children: tuple[Program, ...] = ()
        if style == "nested" and depth < _DEPTH:
            width = rng.randint(1 if depth == 0 else 0, 3)
            children = tuple(self._program(style, depth + 1) for _ in range(width))
        oddity = rng.choices(_ODDITIES, _WEIGHTS)[0]
        return Program(
            key=f"{self._number}.{self._serial}",
            sleep_us=sleep_us,
            number=rng.randint(0, 1000),
            fails=style != "once" and oddity == "fails",
            kills=int(oddity == "kills"),
            is_large=oddity == "large",
            max_retries=0 if style == "once" or oddity == "once" else rng.choice((-1, -1, 3)),
            children=children,
        )


def _happens(rng: Random, chance: float) -> bool:
    return rng.random() < chance
