"""Who listens: the thread that waits for a value, or one in the background.

Handing a message from a listening thread to a waiting one costs more than a tiny task does, so
whoever waits listens itself. The background thread listens only while nobody waits, and sees to
what must happen even then: buffers that are due, lines to print, futures.

Ctrl-C may come at any moment, and the driver is to be usable afterwards. So nothing here takes a
lock but with `with`, and only locks that are written in C: those in `threading.Condition` and
`Event` may stay taken when Ctrl-C comes as they are entered or left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cloudray.interrupts import Bell

_log = logging.getLogger(__name__)

#: How often the background thread looks while the driver is submitting.
_TICK_S = 0.004
#: After this long without submissions it sleeps until a message comes.
_QUIET_S = 0.5
#: A waiter that does not listen looks this often whether it should.
_TURN_S = 0.05
#: After an error in the background it rests so long.
_PAUSE_S = 1.0


class Pump:
    """Takes turns at listening.

    `turn(timeout_s)` waits for messages and handles them, `tick()` does what is due anyway and
    says whether anything is left to see to, `wake()` makes `turn` return.
    """

    def __init__(
        self,
        turn: Callable[[float], None],
        tick: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._turn = turn
        self._tick = tick
        self._wake = wake
        # Taken again by a signal handler that waits.
        self._choosing = threading.RLock()
        #: the thread that is in `turn`; 0 for none. No lock says so, as this can be put right later
        self._leader = 0
        #: by thread that waits for another one's turn to end, where it hears of that
        self._followers: dict[int, Bell] = {}
        #: the threads that wait
        self._waiting: set[int] = set()
        #: the background thread is in `turn`, or asleep: a submission must wake it
        self.quiet = False
        #: somebody waits for a future: listen even while nobody waits for a value
        self.eager = False
        self._closed = False
        self._stirred = Bell()
        self._thread = threading.Thread(
            target=self._background, name="cloudray-driver", daemon=True
        )

    def start(self) -> None:
        """Start the background thread, which needs all of its owner."""
        self._thread.start()

    def stir(self) -> None:
        """Something was submitted while all was quiet, or somebody waits for a future."""
        self.quiet = False
        self._stirred.ring()
        self._wake()

    def run_until(self, ready: Callable[[], bool], deadline_s: float | None) -> bool:
        """Listen until `ready`; False when the deadline (monotonic) or `close` came first."""
        me = threading.get_ident()
        # A signal handler may wait, inside a wait or a turn of its own thread.
        leads_already = self._leader == me
        waits_already = me in self._waiting
        try:
            self._waiting.add(me)
            while not ready():
                if self._closed:
                    return False
                left_s = 3600.0 if deadline_s is None else deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                if leads_already or self._lead(me):
                    try:
                        self._turn(left_s)
                    finally:
                        if not leads_already:
                            self._leader = 0
                    self.tell_followers()
                    continue
                if self.quiet or self.eager:
                    self.stir()
                bell = self._followers.setdefault(me, Bell())
                if not ready():
                    bell.listen(min(left_s, _TURN_S))
            return True
        finally:
            if not waits_already:
                self._waiting.discard(me)
            self._followers.pop(me, None)
            if not leads_already and self._leader == me:
                self._leader = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody waits, for a value or a future."""
        return bool(self._waiting) or self.eager

    def tell_followers(self) -> None:
        """Something came: whoever waits while another thread listens looks whether it is his."""
        if self._followers:
            for bell in list(self._followers.values()):
                bell.ring()

    def _lead(self, me: int) -> bool:
        """Become the one that listens, unless another thread does."""
        with self._choosing:
            if self._leader or self._closed:
                return False
            self._leader = me
            return True

    def close(self) -> None:
        """End the background thread, and every `run_until`; nobody listens afterwards."""
        with self._choosing:
            self._closed = True
        self._stirred.ring()
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        me = threading.get_ident()
        bell = self._followers.setdefault(me, Bell())
        # Whoever is in `turn` was woken and leaves; nobody gets in any more.
        while self._leader not in (0, me):
            bell.listen(_TURN_S)
        self.tell_followers()

    def _rest(self, timeout_s: float) -> None:
        self._stirred.listen(timeout_s)

    def _background(self) -> None:
        self._busy_s = time.monotonic()
        while not self._closed:
            try:
                self._go_round()
            except Exception:  # noqa: BLE001 - logged, and whoever waits meets it too
                # What is submitted later must still leave.
                _log.exception("the driver's background work failed; it goes on")
                self._rest(_PAUSE_S)

    def _go_round(self) -> None:
        if self._tick():
            self._busy_s = time.monotonic()
        if self._waiting:
            # The waiters listen, and `turn` sees to what is due.
            self._busy_s = time.monotonic()
            self._rest(_TURN_S)
            return
        self.quiet = quiet = time.monotonic() - self._busy_s > _QUIET_S
        if quiet and self._tick():
            # Submitted between the last look and `quiet`: nobody will wake us for it.
            self.quiet = quiet = False
        if not quiet and not self.eager:
            self._rest(_TICK_S)
        if self._lead(threading.get_ident()):
            try:
                self._turn(1.0 if quiet else _TICK_S if self.eager else 0.0)
            finally:
                self.quiet = False
                self._leader = 0
            self.tell_followers()
        else:
            self._rest(_TICK_S)
