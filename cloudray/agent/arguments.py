"""The arguments that tasks wait for: results that may not exist yet, and values of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cloudray import ids
from cloudray.agent.held import NOBODY, Held, Status
from cloudray.agent.resolver import Resolver
from cloudray.exceptions import TaskCancelledError
from cloudray.protocol.records import Verb, Word
from cloudray.values import codec
from cloudray.values.outcomes import error_payload


class Arguments:
    """Gathers what each task lacks.

    `on_ready` is told of a task that has all, `on_failed` of a batch of which a task never will:
    that it failed is said of it. `valued` hears which refs are contained in an error that it takes
    over.
    """

    def __init__(
        self,
        resolver: Resolver,
        on_ready: Callable[[Held, int], None],
        on_failed: Callable[[Held], None],
        valued: Callable[[bytes, tuple[bytes, ...]], None],
    ) -> None:
        self._resolver = resolver
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._valued = valued

    def want(self, held: Held, index: int) -> None:
        """Wait for the arguments of a task."""
        task = held.batch.tasks[index]
        held.values[index] = [b""] * len(task.depends_on)
        held.missing[index] = len(task.depends_on) + bool(task.arguments_id)
        unfinished = partial(held.is_unfinished, index)
        for position, identifier in enumerate(task.depends_on):
            then = partial(self._came, held, index, position)
            failed = partial(self._failed, held, index, identifier)
            self._resolver.want(identifier, then, unfinished, failed)
        if task.arguments_id:
            then = partial(self._came, held, index, -1)
            self._resolver.want(task.arguments_id, then, unfinished)

    def _came(self, held: Held, index: int, position: int, verb: int, payload: bytes) -> None:
        if held.dropped or held.status[index] is not Status.WAITING:
            return
        if verb != Verb.DONE:
            if verb == Verb.CANCELLED:
                identifier = held.batch.tasks[index].depends_on[position]
                task_id = identifier[: ids.BATCH_ID_BYTES + 2].hex()
                payload = error_payload(TaskCancelledError(task_id))
            held.say(Word(index, Verb.FAILED, (payload,), NOBODY))
            self._on_failed(held)
            return
        if position < 0:
            held.argument_files[index] = payload
        else:
            held.values[index][position] = payload
        held.missing[index] -= 1
        if held.missing[index] == 0:
            del held.missing[index]
            self._on_ready(held, index)

    def _failed(self, held: Held, index: int, identifier: bytes, word: Word) -> None:
        """A failed dependency fails its dependents with the same error; they never run."""
        if held.dropped or held.status[index] is not Status.WAITING:
            return
        contains = word.contains
        if codec.stored_key(word.values[0]) is not None:
            # It lies with the dependency, which so stays as long as this.
            contains = (*contains, identifier)
        if contains:
            self._valued(held.batch.id, contains)
        held.say(Word(index, Verb.FAILED, word.values, NOBODY, contains))
        self._on_failed(held)
