"""Threads in virtual time: real ones, of which one runs at a time, and only when it is its turn.

The scheduler gives the baton to a thread and waits until it comes back: when the thread waits for
a lock, for time to pass, or for the store. So code that blocks runs unchanged, and always in the
same order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from cloudray.testing.scheduler import Process

#: How long a thread of a dead process may take to unwind, in real seconds.
_UNWINDING_S = 10.0


class ProcessEndedError(BaseException):
    """The simulated process of this thread was killed."""


class Baton:
    """Held by the one thread that runs."""

    def __init__(self) -> None:
        self._back = threading.Semaphore(0)
        #: the virtual thread that runs; None while the scheduler does
        self.holder: VirtualThread | None = None

    def lend(self, thread: VirtualThread, wake: threading.Semaphore) -> None:
        """Let a thread run until it gives the baton back."""
        before, self.holder = self.holder, thread
        wake.release()
        self._back.acquire()
        self.holder = before

    def give_back(self) -> None:
        """Let the scheduler go on."""
        self._back.release()


class VirtualThread:
    """Stands in for `threading.Thread`."""

    def __init__(
        self,
        process: Process,
        target: Callable[..., object],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str = "thread",
    ) -> None:
        self.process = process
        self.name = name
        self.daemon = True
        #: raised in it; fails the world
        self.error: BaseException | None = None
        self._target = partial(target, *args, **(kwargs or {}))
        self._baton = process.scheduler.baton
        self._wake = threading.Semaphore(0)
        self._real = threading.Thread(target=self._run, name=name, daemon=True)
        self._parked = False
        self._woken = False
        self._over = False
        self._joining: list[VirtualThread] = []

    @property
    def ident(self) -> int | None:
        """Its number."""
        return self._real.ident

    def is_alive(self) -> bool:
        """Whether it runs, or will."""
        return not self._over

    def start(self) -> None:
        """Let it run, when its turn comes."""
        self.process.thread(self)
        self._real.start()
        self._parked = True
        self.unpark()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        me = self._baton.holder
        if me is not None and not self._over:
            self._joining.append(me)
            me.park(timeout)

    # -- waiting -----------------------------------------------------------------------------

    def park(self, timeout_s: float | None = None) -> bool:
        """Wait (the thread itself, for nobody else) for `unpark`; False when the time was up."""
        if self.process.killed:
            raise ProcessEndedError
        self._parked, self._woken = True, False
        timer = None
        if timeout_s is not None:
            timer = self.process.call_later(timeout_s, self._time_is_up)
        self._baton.give_back()
        self._wake.acquire()
        if timer is not None:
            timer.cancel()
        if self.process.killed:
            raise ProcessEndedError
        return self._woken

    def unpark(self) -> None:
        """Let it go on, in its turn."""
        if self._parked:
            self._parked, self._woken = False, True
            self.process.call_soon(self._turn)

    def unwind(self) -> None:
        """Its process is dead: let it end, raising where it waits."""
        if not self._over:
            self._turn()
            self._real.join(_UNWINDING_S)

    def _time_is_up(self) -> None:
        if self._parked:
            self._parked = False
            self._turn()

    def _turn(self) -> None:
        if not self._over:
            self._baton.lend(self, self._wake)

    def _run(self) -> None:
        self._wake.acquire()
        try:
            if not self.process.killed:
                self._target()
        except ProcessEndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - kept, and fails the world
            self.error = error
            self.process.call_exception_handler({"message": self.name, "exception": error})
        finally:
            self._over = True
            if not self.process.killed:
                for thread in self._joining:
                    thread.unpark()
            self._baton.give_back()


class Lock:
    """Stands in for `threading.Lock` and, `reentrant`, for `threading.RLock`."""

    def __init__(self, baton: Baton, *, reentrant: bool = False) -> None:
        self._baton = baton
        self._reentrant = reentrant
        self._owner: object = None
        self._depth = 0
        self._waiting: deque[VirtualThread] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as in threading
        """Take it; False when that was not possible in time."""
        me = self._baton.holder
        while self._depth and not (self._reentrant and self._owner is me):
            if not blocking:
                return False
            if me is None:
                if self._baton.holder is None:
                    msg = "an event loop would wait for a lock that a thread holds"
                    raise RuntimeError(msg)
                return False
            self._waiting.append(me)
            if not me.park(None if timeout < 0 else timeout):
                self._waiting.remove(me)
                return False
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back."""
        if not self._depth:
            msg = "release unlocked lock"
            raise RuntimeError(msg)
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiting:
                self._waiting.popleft().unpark()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._depth > 0

    def release_all(self) -> int:
        """Give it back however often it was taken; returns how often that was."""
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def acquire_again(self, depth: int) -> None:
        """Take it as often as it was taken before `release_all`."""
        self.acquire()
        self._depth = depth

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """Stands in for `threading.Condition`."""

    def __init__(self, baton: Baton, lock: Lock | None = None) -> None:
        self._baton = baton
        self._lock = Lock(baton, reentrant=True) if lock is None else lock
        self._waiting: list[VirtualThread] = []
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `notify`; False when the time was up."""
        me = self._baton.holder
        if me is None:
            msg = "an event loop would wait for a thread"
            raise RuntimeError(msg)
        self._waiting.append(me)
        depth = self._lock.release_all()
        try:
            return me.park(timeout)
        finally:
            if me in self._waiting:
                self._waiting.remove(me)
            if not me.process.killed:
                self._lock.acquire_again(depth)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something is so; `timeout` is for each notification."""
        while not predicate():
            if not self.wait(timeout):
                return predicate()
        return True

    def notify(self, n: int = 1) -> None:
        """Wake some that wait."""
        for thread in self._waiting[:n]:
            self._waiting.remove(thread)
            thread.unpark()

    def notify_all(self) -> None:
        """Wake all that wait."""
        self.notify(len(self._waiting))

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A thread of a dead process unwinds through here without the lock.
        if self._lock.locked():
            self._lock.release()


class Event:
    """Stands in for `threading.Event`."""

    def __init__(self, baton: Baton) -> None:
        self._changed = Condition(baton)
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Wake all that wait, now and later."""
        self._is_set = True
        with self._changed:
            self._changed.notify_all()

    def clear(self) -> None:
        """Let the next ones wait."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set."""
        with self._changed:
            if not self._is_set:
                self._changed.wait(timeout)
        return self._is_set
