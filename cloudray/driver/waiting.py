"""Waiting for outcomes: whoever waits listens, and has what he waits for looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudray import ids
from cloudray.driver.far import Far
from cloudray.driver.following import Following
from cloudray.driver.hearing import Hearing
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.progress import Progress
from cloudray.driver.pump import Pump
from cloudray.exceptions import RaySystemError
from cloudray.protocol.records import Verb, Word
from cloudray.refs import ObjectRef

#: Who waits for less than this, in seconds, has the first look made for him all the same, which
#: may take so long.
_SHORT_S, _GLANCE_S = 0.05, 2.0
_FREED = (
    "it was freed when no ref to it was left: an id as text or bytes keeps nothing alive, so keep "
    "the ref itself too"
)
#: What who waits is told at the end.
LEFT = "the cluster was shut down while this value was waited for"


class Waiting:
    """Waits for the words of refs, for any thread."""

    def __init__(
        self,
        lock: threading.RLock,
        pump: Pump,
        hearing: Hearing,
        following: Following,
        lifetimes: Lifetimes | None,
        progress: Progress,
        prefix: bytes,
    ) -> None:
        """`prefix` is how the ids of what this driver submits begin."""
        self._lock = lock
        self._pump = pump
        self._hearing = hearing
        self._following = following
        self._find = following.find
        self._lifetimes = lifetimes
        self._progress = progress
        self._prefix = prefix
        #: nobody listens any more
        self.closed = False
        #: why nothing will ever run here any more, if so
        self.hopeless: str | None = None

    @property
    def why_never(self) -> str | None:
        """Why whoever begins to wait now would wait for ever, if so."""
        return LEFT if self.closed else self.hopeless

    def words(
        self,
        refs: Sequence[ObjectRef[Any]],
        num_returns: int | None,
        timeout_s: float | None,
        deadline_s: float | None,
    ) -> list[Word | None]:
        """Wait for `num_returns` outcomes (None: for all, or the first error).

        `deadline_s` (monotonic) is when `timeout_s` is over.
        """
        find = self._find
        with self._lock:
            words = [find(ref.id) for ref in refs]
            pending = [position for position, word in enumerate(words) if word is None]
            awaited = len(pending)
            for position in pending:
                identifier = refs[position].id
                if ids.index_of(identifier) == ids.PUT_INDEX:
                    awaited -= 1
                else:
                    self.follow(identifier)
        if not pending:
            return words

        failed = any(word is not None and word.verb is not Verb.DONE for word in words)

        def enough() -> bool:
            nonlocal pending, failed
            still = []
            for position in pending:
                word = words[position] = find(refs[position].id)
                if word is None:
                    still.append(position)
                elif word.verb is not Verb.DONE:
                    failed = True
            pending = still
            if num_returns is not None:
                return len(words) - len(pending) >= num_returns
            return failed or not pending

        self._look_first(refs, pending, timeout_s)
        if not enough():
            self._listen_until(enough, deadline_s, (refs, awaited, num_returns))
        return words

    def follow(self, identifier: bytes) -> None:
        """Somebody waits for a task's value: follow its batch, if that is still there."""
        batch = ids.unit_of(identifier)
        lifetimes = self._lifetimes
        if lifetimes is None or lifetimes.is_born(batch) or not batch.startswith(self._prefix):
            self._following.follow(identifier)
        else:
            self._following.lose(batch, _FREED)

    def listen(self, seconds: float) -> None:
        """Take in what agents say, for so long."""
        self._pump.run_until(lambda: False, time.monotonic() + seconds)

    def _listen_until(
        self,
        enough: Callable[[], bool],
        deadline_s: float | None,
        wait: tuple[Sequence[ObjectRef[Any]], int, int | None],
    ) -> None:
        try:
            self._progress.begin(*wait)
            over = self._pump.run_until(lambda: enough() or bool(self.hopeless), deadline_s)
            if self.hopeless and not enough():
                raise RaySystemError(self.hopeless)
            if not over and self.closed:
                raise RaySystemError(LEFT)
        finally:
            self._progress.end()

    def _look_first(
        self, refs: Sequence[ObjectRef[Any]], pending: list[int], timeout_s: float | None
    ) -> None:
        """Also when there is no time to wait: what ended long ago is ready."""
        far = self._hearing.far
        if far is None:
            if self._following.restless:
                self._hearing.look_around()
        elif timeout_s is not None and timeout_s <= _SHORT_S:
            self._glance(far, [ids.unit_of(refs[position].id) for position in pending])

    def _glance(self, far: Far, units: list[bytes]) -> None:
        """Do what can be done for somebody who does not wait, but may ask again and again.

        What is asked for the first time is looked at, or gets so long to be stored; else a look
        begins whenever one is due.
        """
        following = self._following
        restless = following.restless
        now_s = time.monotonic()
        with self._lock:
            self._hearing.handle_all()
            if restless or far.due_s(now_s) <= 0.0:
                far.look(following.open_now(), now_s)
            fresh = {unit for unit in units if following.asks_first(unit)}
        if restless or fresh:
            arriving = following.arriving
            self._pump.run_until(
                lambda: not (restless and far.is_looking) and arriving.keys().isdisjoint(fresh),
                now_s + _GLANCE_S,
            )
            with self._lock:
                # A look that is over has said before what it found.
                self._hearing.handle_all()
