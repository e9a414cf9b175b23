"""Virtual time: an event loop per simulated process, and one order in which all of them run.

Nothing waits: when no process has anything to do, the clock jumps to the next timer. A process
can be paused (its timers and answers pile up, and come late, as after SIGSTOP) or killed (they
never come), and its clock may be off.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from cloudray.testing.threads import Baton, VirtualThread

_Ts = TypeVarTuple("_Ts")
# At run time there is nothing to inherit: all that is used is below.
if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = asyncio.AbstractEventLoop
#: How often a coroutine that is unwound may want to wait.
_UNWINDINGS = 20


class RestlessError(Exception):
    """The world does more and more, and comes to no end."""


class Scheduler:
    """The clock of a simulated world, and what is due when. Time is in seconds, from 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        #: handles run so far: two runs of one world agree on it
        self.turns = 0
        #: so many are taken at most; None: any number
        self.turns_limit: int | None = None
        self.baton = Baton()
        #: callbacks that were to raise, by process
        self.errors: list[tuple[str, dict[str, Any]]] = []
        self._ready: deque[tuple[Process, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Process, asyncio.Handle]] = []
        self._serial = 0
        #: whose callback runs
        self.current: Process | None = None

    def soon(self, process: Process, handle: asyncio.Handle) -> None:
        """Run a handle when what is ready now has run."""
        self._ready.append((process, handle))

    def at(self, when_s: float, process: Process, handle: asyncio.Handle) -> None:
        """Run a handle at a moment of virtual time."""
        self._serial += 1
        heapq.heappush(self._timers, (when_s, self._serial, process, handle))

    def run(self, over: Callable[[], bool], limit_s: float) -> bool:
        """Run until `over` says so; False when virtual time reaches `limit_s` before."""
        ready, timers = self._ready, self._timers
        try:
            while True:
                while ready:
                    process, handle = ready.popleft()
                    self._turn(process, handle)
                if over():
                    return True
                if not timers or timers[0][0] > limit_s:
                    self.now_s = limit_s
                    return False
                self.now_s, _, process, handle = heapq.heappop(timers)
                self._turn(process, handle)
        finally:
            self._enter(None)

    def _turn(self, process: Process, handle: asyncio.Handle) -> None:
        if process.killed or handle.cancelled():
            return
        if process.paused:
            process.backlog.append(handle)
            return
        if self.current is not process:
            self._enter(process)
        self.turns += 1
        if self.turns == self.turns_limit:
            raise RestlessError
        handle._run()  # noqa: SLF001 - what event loops do

    def _enter(self, process: Process | None) -> None:
        self.current = process
        asyncio._set_running_loop(process)  # noqa: SLF001 - what event loops do


class Process(_Loop):
    """A simulated process: an event loop of its own, and a clock that may be off.

    >>> scheduler = Scheduler()
    >>> process = Process(scheduler, "agent")
    >>> _ = process.call_later(60.0, print, "a minute later")
    >>> scheduler.run(lambda: False, limit_s=3600.0)
    a minute later
    False
    """

    def __init__(
        self, scheduler: Scheduler, name: str, *, skew_s: float = 0.0, drift: float = 1.0
    ) -> None:
        """`skew_s` is what its wall clock is ahead, `drift` how fast its clocks run."""
        self.scheduler = scheduler
        self.name = name
        self.skew_s = skew_s
        self.drift = drift
        self.paused = False
        self.killed = False
        self.backlog: list[asyncio.Handle] = []
        self._threads: list[VirtualThread] = []
        #: tasks are referred to weakly by those who await them
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # -- fate --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Freeze it: what becomes due meanwhile waits."""
        self.paused = True

    def resume(self) -> None:
        """Let it go on, with all that has come meanwhile."""
        self.paused = False
        backlog, self.backlog = self.backlog, []
        for handle in backlog:
            self.scheduler.soon(self, handle)

    def kill(self) -> None:
        """End it: nothing of it runs any more. Its threads end when `bury` is called."""
        self.killed = True
        self.backlog.clear()

    def bury(self) -> None:
        """Unwind the threads of a killed process, and let go of its tasks."""
        self.killed = True
        for thread in self._threads:
            thread.unwind()
        asyncio._set_running_loop(self)  # noqa: SLF001 - what ends may ask for its loop
        while self._tasks:
            # Those that begin as others end are among them.
            task, _ = self._tasks.popitem()
            # It was destroyed while pending, on purpose.
            task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001
            _close(task.get_coro())
        asyncio._set_running_loop(None)  # noqa: SLF001

    def thread(self, thread: VirtualThread) -> None:
        """A thread of this process has started."""
        self._threads.append(thread)

    # -- an event loop, as far as asyncio needs one ------------------------------------------

    def time(self) -> float:
        """Its monotonic clock."""
        return self.scheduler.now_s * self.drift

    def wall_s(self) -> float:
        """Its wall clock, in UTC seconds."""
        return 1.8e9 + self.skew_s + self.time()

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run a callback when what is ready now has run."""
        handle = asyncio.Handle(callback, args, self, context)
        self.scheduler.soon(self, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after `delay` seconds of its own clock."""
        when_s = self.scheduler.now_s + max(0.0, delay) / self.drift
        handle = asyncio.TimerHandle(when_s, callback, args, self, context)
        self.scheduler.at(when_s, self, handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a moment of its own clock."""
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in it."""
        task = self.create_task(work)
        del task

    def create_task(
        self, coro: Any, *, name: object = None, context: Any = None
    ) -> asyncio.Task[Any]:
        """A task of this loop."""
        task = asyncio.Task(coro, loop=self, name=str(name or "simulated"), context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a cancelled timer is skipped when it is due."""

    def is_running(self) -> bool:
        """Always, while the world does."""
        return True

    def is_closed(self) -> bool:
        """Never; a killed process only stops."""
        return False

    def get_debug(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback has raised: that is kept, and fails the world."""
        self.scheduler.errors.append((self.name, context))


def _close(coroutine: Any) -> None:
    """Unwind a coroutine, however often it would go on waiting."""
    for _ in range(_UNWINDINGS):
        try:
            coroutine.close()
        except RuntimeError:
            # It waits again, as it cleans up.
            continue
        except Exception:  # noqa: BLE001 - the world is over
            return
        return
