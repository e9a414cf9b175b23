"""What a long wait waits for: how much is done, what runs, and how long the rest may take.

A wait costs nothing for it but an entry in a dictionary: whoever waits says so, and the driver's
background thread, which looks around anyway, notices a wait that is a second old.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cloudray import ids
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Verb
from cloudray.protocol.sharing import at
from cloudray.refs import ObjectRef

#: A wait that takes longer is shown.
PATIENCE_S = 1.0
#: The display changes at most this often ...
_REDRAW_S = 0.2
#: ... and less often where counting takes long: at most this share of the time goes into it.
_COUNTING_SHARE = 0.05


class Report(msgspec.Struct, frozen=True):
    """How far the tasks are that are waited for."""

    #: tasks whose values are waited for, each once
    total: int
    #: of these, those that have ended in whatever way ...
    done: int
    #: ... and of those, the ones that failed or were cancelled
    failed: int
    #: those that an agent says are running
    running: int
    #: since the oldest wait began
    elapsed_s: float
    #: tasks ended per second meanwhile; 0 while none has
    per_second: float = 0.0
    #: how long the rest takes at that rate; None while nothing is known
    eta_s: float | None = None

    @property
    def queued(self) -> int:
        """Those that have not started, as far as is known."""
        return max(0, self.total - self.done - self.running)


class Display(Protocol):
    """Where reports are shown, one in the place of the other."""

    def show(self, report: Report) -> None:
        """Show a report instead of the last one."""

    def clear(self) -> None:
        """Show nothing any more, and leave no trace."""


class Wait(msgspec.Struct, eq=False):
    """One thread's `get` or `wait`."""

    #: emptied when it ends, as whoever still looks at it must not keep them alive
    refs: Sequence[ObjectRef[Any]]
    #: how many of the refs had no outcome when it began
    pending: int
    #: how many outcomes are enough; None: all
    enough: int | None = None
    #: whose output it is, in a notebook
    place: contextvars.Context | None = None


class Watch:
    """The tasks behind some refs, each counted once, and what the journals say of them."""

    def __init__(self, journals: Mapping[bytes, Journal], waits: Sequence[Wait]) -> None:
        self._journals = journals
        #: by batch, the indexes of tasks that had not ended at the last count
        self._open: dict[bytes, set[int]] = {}
        for wait in waits:
            for ref in wait.refs:
                index = ids.index_of(ref.id)
                if index != ids.PUT_INDEX:
                    self._open.setdefault(ids.unit_of(ref.id), set()).add(index)
        self.total = sum(map(len, self._open.values()))
        self.failed = 0

    def count(self) -> tuple[int, int]:
        """How many tasks have ended, and how many of the others run."""
        waiting = list(self._open)
        while waiting:
            batch = waiting.pop()
            journal = self._journals.get(batch)
            if journal is None:
                continue
            indexes = self._open[batch]
            for index in [one for one in indexes if one in journal.decided]:
                indexes.discard(index)
                word = journal.decided[index]
                if word.verb is Verb.MOVED:
                    there, moved_index = at(word.values[0])
                    self._open.setdefault(there, set()).add(moved_index)
                    waiting.append(there)
                elif word.verb is not Verb.DONE:
                    self.failed += 1
            if not indexes:
                del self._open[batch]
        left = running = 0
        for batch, indexes in self._open.items():
            left += len(indexes)
            journal = self._journals.get(batch)
            if journal is not None and journal.started:
                running += sum(1 for index in list(journal.started) if index in indexes)
        return self.total - left, running


class Progress:
    """Shows how far long waits are, in one place however many threads wait.

    `open_display` is called when there is first something to show; None from it means that
    nothing will ever be shown.
    """

    def __init__(
        self,
        journals: Mapping[bytes, Journal],
        open_display: Callable[[], Display | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journals = journals
        self._open_display = open_display
        self._clock = clock
        #: by thread, what it waits for
        self.waits: dict[int, Wait] = {}
        #: by thread, its wait and when that was first seen
        self._seen: dict[int, tuple[Wait, float]] = {}
        self._shown: tuple[Wait, ...] = ()
        self._watch: Watch | None = None
        self._display: Display | None = None
        self._never = False
        self._next_s = 0.0
        # Taken again by a signal handler that waits.
        self._lock = threading.RLock()

    def begin(
        self, refs: Sequence[ObjectRef[Any]], pending: int, enough: int | None = None
    ) -> None:
        """Note that this thread waits for these refs."""
        # A notebook shows output under the cell whose code runs in this context.
        place = contextvars.copy_context() if "ipykernel" in sys.modules else None
        self.waits[threading.get_ident()] = Wait(refs, pending, enough, place)

    def end(self) -> None:
        """Note that this thread waits no more; nothing of what was shown for it is left."""
        wait = self.waits.pop(threading.get_ident(), None)
        if wait is not None:
            wait.refs = ()
        if self._shown and wait in self._shown:
            with self._lock:
                self._shown = tuple(one for one in self._shown if one is not wait)
                self._watch = None
                if not self._shown:
                    self._clear()

    @property
    def active(self) -> bool:
        """Whether `look` has anything to do."""
        return bool(self.waits or self._shown)

    def look(self) -> None:
        """Now and then, while somebody waits: show what takes long."""
        now_s = self._clock()
        if self._never or not (self._notice(now_s) or self._shown):
            return
        with self._lock:
            self._show(now_s)

    def close(self) -> None:
        """Show nothing any more."""
        with self._lock:
            self._never = True
            self._shown = ()
            self._clear()

    def _notice(self, now_s: float) -> bool:
        """Note which waits go on; whether one of them has done so for long."""
        seen: dict[int, tuple[Wait, float]] = {}
        for thread, wait in list(self.waits.items()):
            known = self._seen.get(thread)
            seen[thread] = known if known is not None and known[0] is wait else (wait, now_s)
        self._seen = seen
        return any(now_s - since_s >= PATIENCE_S for _, since_s in seen.values())

    def _show(self, now_s: float) -> None:
        long = {
            thread: (wait, since_s)
            for thread, (wait, since_s) in self._seen.items()
            if now_s - since_s >= PATIENCE_S and self.waits.get(thread) is wait
        }
        waits = tuple(wait for wait, _ in long.values())
        if self._never or (waits == self._shown and now_s < self._next_s):
            return
        if not waits:
            self._shown = ()
            self._clear()
            return
        if self._display is None:
            self._display = self._open_display()
            if self._display is None:
                self._never = True
                return
        if waits != self._shown or self._watch is None:
            self._watch = Watch(self._journals, waits)
            self._shown = waits
        began_s = min(since_s for _, since_s in long.values())
        report = self._report(self._watch, waits, now_s - began_s)
        cost_s = self._clock() - now_s
        self._next_s = now_s + max(_REDRAW_S, cost_s / _COUNTING_SHARE)
        if waits[0].place is None:
            self._display.show(report)
        else:
            waits[0].place.run(self._display.show, report)

    def _report(self, watch: Watch, waits: tuple[Wait, ...], elapsed_s: float) -> Report:
        done, running = watch.count()
        left = watch.total - done
        if len(waits) == 1 and waits[0].enough is not None:
            left = min(left, waits[0].enough - (len(waits[0].refs) - left))
        ended = max(0, sum(wait.pending for wait in waits) - (watch.total - done))
        per_second = ended / elapsed_s if elapsed_s > 0 else 0.0
        return Report(
            total=watch.total,
            done=done,
            failed=watch.failed,
            running=running,
            elapsed_s=elapsed_s,
            per_second=per_second,
            eta_s=max(0, left) / per_second if per_second > 0 else None,
        )

    def _clear(self) -> None:
        if self._display is not None:
            self._display.clear()
