"""Why a value is not there yet, for the error of a `get` whose time is up.

What this process knows already is told at once; the task's name, its demand and its arguments
stand in the queue, and what the cluster has in its agents' heartbeats. These are read only now,
for few tasks, and not again and again for somebody who asks every few milliseconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from cloudray import ids
from cloudray.driver.describing import describe, describe_here, final_word
from cloudray.driver.following import Following
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.reasons import why_queued
from cloudray.protocol.records import Batch, Claim, Heartbeat, Shape, Task, unseal
from cloudray.protocol.results import Results
from cloudray.refs import ObjectRef
from cloudray.store import RecordError, Store, drive
from cloudray.store.layout import claim_of

_log = logging.getLogger(__name__)

#: So many values are explained; the others are only named.
EXPLAINED = 5
#: The store is read for an explanation at most so often.
_INTERVAL_S = 1.0
#: A store that takes longer to answer is not waited for.
_PATIENCE_S = 2.0


class Pending:
    """Explains what is pending. Reads the store; changes nothing."""

    def __init__(
        self, store: Store, following: Following, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._following = following
        self._clock = clock
        self._read_s = float("-inf")

    def explain(self, refs: Sequence[ObjectRef[Any]], timeout_s: float) -> list[str]:
        """One line per ref, in their order: which task it is, and what that waits for."""
        lines = [f"{ids.short(ref.id)}: {describe_here(self._following, ref.id)}" for ref in refs]
        now_s = self._clock()
        # Who has no time to wait is polling, and pays for no answer but yes or no.
        if timeout_s > 0 and now_s - self._read_s >= _INTERVAL_S:
            self._read_s = now_s
            few = [ref.id for ref in refs[:EXPLAINED]]
            lines[: len(few)] = self._read(few) or lines[: len(few)]
        return lines

    def _read(self, identifiers: list[bytes]) -> list[str]:
        if self._store.inline:
            return self._explanations(identifiers)
        found: list[str] = []
        # A store that does not answer must not make a time limit meaningless.
        thread = threading.Thread(
            target=lambda: found.extend(self._explanations(identifiers)),
            name="cloudray-explain",
            daemon=True,
        )
        thread.start()
        thread.join(_PATIENCE_S)
        return list(found)

    def _explanations(self, identifiers: list[bytes]) -> list[str]:
        reading = _Reading(self._store, self._following, self._clock())
        try:
            return [reading.explain(identifier) for identifier in identifiers]
        except Exception:  # noqa: BLE001 - a store may fail in any way; the time is up all the same
            _log.debug("what is pending could not be explained", exc_info=True)
            return []


class _Reading:
    """What was read for one error."""

    def __init__(self, store: Store, following: Following, now_s: float) -> None:
        self._store = store
        self._following = following
        self._results: Results = following.results
        self._now_s = now_s
        self._batches: dict[bytes, Batch | None] = {}
        self._beats: list[Heartbeat] | None = None

    def explain(self, identifier: bytes) -> str:
        known = self._task_of(identifier)
        name = ids.short(identifier)
        if known is not None:
            name = f"{known[1].name} ({name})"
        return f"{name}: {self._why(identifier, known)}"

    def _why(self, identifier: bytes, known: tuple[Task, Shape] | None) -> str:
        if ids.index_of(identifier) == ids.PUT_INDEX:
            return describe_here(self._following, identifier)
        word, runs = final_word(self._results, identifier)
        if word is not None:
            return describe(self._results, identifier)
        if runs:
            return self._where_it_runs(identifier)
        if known is None:
            return "pending"
        task, shape = known
        return self._argument_of(task) or f"queued: {why_queued(shape.demand, self._all_beats())}"

    def _where_it_runs(self, identifier: bytes) -> str:
        batch, index = self._results.waiting_on(identifier)
        text = "running"
        since_s = self._following.started_s.get(batch, {}).get(index)
        if since_s is not None:
            text += f" for {max(0.0, self._now_s - since_s):.0f} s"
        name = self._following.names.get(batch)
        if name is not None:
            claim = self._results.journals[batch].started[index][-1][0]
            key = claim_of(name.stem, claim)
            agent = None
            with suppress(RecordError):  # one that is none of ours says nothing
                body = self._store.get(key)
                agent = None if body is None else unseal(Claim, body, key).agent
            host = next((beat.host for beat in self._all_beats() if beat.agent == agent), None)
            text += f" on {host}" if host else ""
        return text

    def _argument_of(self, task: Task) -> str | None:
        """The first argument that a task lacks."""
        for identifier in task.depends_on:
            word, runs = final_word(self._results, identifier)
            if word is not None or ids.index_of(identifier) == ids.PUT_INDEX:
                continue
            known = self._task_of(identifier)
            name = ids.short(identifier)
            if known is not None:
                name = f"{known[1].name} ({name})"
            return f"waits for its argument {name}, which is {'running' if runs else 'pending'}"
        return None

    def _task_of(self, identifier: bytes) -> tuple[Task, Shape] | None:
        batch, index = self._results.waiting_on(identifier)
        if batch not in self._batches:
            self._batches[batch] = self._batch(batch)
        found = self._batches[batch]
        if found is None or index >= len(found.tasks):
            return None
        task = found.tasks[index]
        return task, found.shapes[task.shape]

    def _batch(self, identifier: bytes) -> Batch | None:
        name = self._following.names.get(identifier)
        if name is None:
            return None
        key = claim_of(name.stem, 0)
        try:
            body = self._store.get(key)
            return None if body is None else unseal(Batch, body, key)
        except RecordError:
            return None  # nobody will run it as it is, which the store has reported

    def _all_beats(self) -> list[Heartbeat]:
        if self._beats is None:
            self._beats = drive(self._store, heartbeats())
        return self._beats
