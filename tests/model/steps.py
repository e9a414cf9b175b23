"""Where a process may stand, and how it gets from one place to the next."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import blake2b
from typing import Any, NamedTuple

from cloudray.store import conditional
from cloudray.store.backoff import Pause
from cloudray.store.base import Create, GetMany, TransientStoreError
from cloudray.store.bodies import join
from cloudray.store.envelope import HEADER_BYTES
from cloudray.store.procedures import Together
from tests.model.processes import Phase, Process, Step

#: Stands among a process's answers for a `TransientStoreError`.
FAILED = "failed"


class Attempt(NamedTuple):
    """A raw create, as the loop sends it that makes creates certain."""

    key: str
    body: bytes
    #: False for the repetitions of one create
    first: bool


class Steps:
    """The places of one process, numbered as they are found.

    A place is a phase and the answers got in it, and each is computed once, by running the
    phase anew on these answers: generators cannot be copied, but they can be repeated.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self._numbers: dict[tuple[Phase, tuple[Any, ...]], int] = {}
        self._places: list[tuple[Phase, tuple[Any, ...]]] = []
        self._next: dict[tuple[int, Any], int] = {}
        #: per place, the step that is due; None where the process has ended
        self.due: list[Step | Attempt | None] = []
        self.first = self._number(process.first, ())

    def after(self, place: int, answer: Any) -> int:
        """Where the process stands when the step that is due is answered so."""
        known = self._next.get((place, answer))
        if known is None:
            phase, answers = self._places[place]
            known = self._next[place, answer] = self._number(phase, (*answers, answer))
        return known

    def _number(self, phase: Phase, answers: tuple[Any, ...]) -> int:
        known = self._numbers.get((phase, answers))
        if known is not None:
            return known
        due: Step | Attempt | None = None
        try:
            due = self._replay(phase, answers)
        except StopIteration as stop:
            if stop.value is not None:
                return self._number(stop.value, ())
        number = self._numbers[phase, answers] = len(self._places)
        self._places.append((phase, answers))
        self.due.append(due)
        return number

    def _replay(self, phase: Phase, answers: tuple[Any, ...]) -> Step | Attempt:
        run = self._certain(phase)
        due = next(run)
        for answer in answers:
            if answer is FAILED:
                due = run.throw(TransientStoreError("no answer"))
            else:
                due = run.send(list(answer) if isinstance(due, GetMany) else answer)
        return due

    def _certain(self, phase: Phase) -> Generator[Step | Attempt, Any, Phase | None]:
        """Run a phase with its creates made certain, as they are above a raw store."""
        run = self.process.run(phase)
        answer: Any = None
        try:
            while True:
                step = run.send(answer)
                if isinstance(step, Together):
                    answer = yield from self._together(step)
                elif isinstance(step, Create):
                    answer = yield from self._create(step)
                else:
                    answer = yield step
        except StopIteration as stop:
            following: Phase | None = stop.value
            return following

    def _together(self, together: Together) -> Generator[Step | Attempt, Any, list[Any]]:
        answers: dict[int, Any] = {}
        for place in self.process.beside:
            op = together.ops[place]
            answers[place] = (yield from self._create(op)) if isinstance(op, Create) else (yield op)
        return [answers[place] for place in range(len(together.ops))]

    def _create(self, op: Create) -> Generator[Step | Attempt, Any, bytes | None]:
        body = self._stamped(op)
        loop = conditional.create(Create(op.key, body))
        first = True
        answer: Any = None
        error: TransientStoreError | None = None
        try:
            while True:
                raw = loop.send(answer) if error is None else loop.throw(error)
                answer, error = None, None
                if isinstance(raw, Pause):
                    continue
                try:
                    if isinstance(raw, Create):
                        answer = yield Attempt(op.key, body, first)
                    else:
                        answer = yield raw
                except TransientStoreError as raised:
                    error = raised
                first = False
        except StopIteration as stop:
            winner: bytes | None = stop.value
            return winner

    def _stamped(self, op: Create) -> bytes:
        # The nonce that a writer draws, here from who writes what and where: the same in every
        # history. That it names one write only is checked where the write happens.
        body = join(op.body)
        source = f"{self.process.tag} {op.key} ".encode() + body[HEADER_BYTES:]
        return body[:8] + blake2b(source, digest_size=16).digest() + body[24:]
