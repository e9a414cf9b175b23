"""An executor: calls run on its main thread, while another listens to the agent."""

from __future__ import annotations

import faulthandler
import gc
import mmap
import os
import queue
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import NoReturn

from cloudray import context
from cloudray.causes import format_traceback
from cloudray.executor.client import TICK_S, Attempt, ExecutorClient
from cloudray.executor.link import Link
from cloudray.executor.moving import move_in
from cloudray.executor.output import Streams
from cloudray.executor.run import Function, Runner
from cloudray.executor.surroundings import Surroundings
from cloudray.interrupts import Bell
from cloudray.platform import die_with_parent, end_own_group, monotonic_s, on_fork
from cloudray.protocol import messages as m
from cloudray.protocol.buffer import SubmitBuffer
from cloudray.protocol.records import Verb
from cloudray.randomness import SeedWatch
from cloudray.store.account import Account

#: Outcomes are sent together, but none is held back longer than this.
_HOLD_S = 0.005
#: How often the link's thread looks whether outcomes are held back by a call that runs long.
_LOOK_S = 0.02
#: ... and, where refs are held that are counted, whether some of them are gone.
_HOLDING_LOOK_S = 0.25
#: Who has had nothing to do for so long, and still holds refs that are counted, looks for garbage.
_IDLE_S = 0.5


class Executor:
    """Runs calls on the main thread while another thread listens to the agent."""

    def __init__(self, link: Link, token: str, progress: mmap.mmap) -> None:
        self._link = link
        self._token = token
        self._progress = memoryview(progress).cast("Q")
        self._calls: queue.SimpleQueue[m.Call | None] = queue.SimpleQueue()
        #: rings when there are calls
        self._arrived = Bell()
        self._functions: dict[int, Function] = {}
        self._held: list[m.Outcome] = []
        self._holding = threading.Lock()
        self._last_sent_s = 0.0
        self._leaving = False
        #: the ticket of the call that is to be interrupted; 0 for none
        self._interrupting = 0
        self._current: Attempt | None = None
        self._pid = os.getpid()
        link.on_broken = self._link_broken

    def serve(self) -> None:
        """Say hello, then run what comes until the agent says that nothing will."""
        self._link.send(m.Ready(self._token, os.getpid()))
        first, *rest = self._link.receive()
        if not isinstance(first, m.Setup):
            msg = f"the agent's first message should be Setup, not {type(first).__name__}"
            raise TypeError(msg)
        self._prepare(first)
        for message in rest:
            self._handle(message)
        threading.Thread(target=self._listen, name="cloudray-link", daemon=True).start()
        while (call := self._next_call()) is not None:
            self._run(call)
            if self._leaving:
                break
        self._send_outcomes()

    def _listen(self) -> NoReturn:
        try:
            self._link.receive_forever(self._handle, self._tick)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            # A process that no longer hears its agent must not keep a slot.
            end_own_group()

    def _link_broken(self) -> None:
        self._progress[2] = 1

    def _prepare(self, setup: m.Setup) -> None:
        move_in(setup)
        self._client = ExecutorClient(self._link.send, self._link.wake, setup, self._send_outcomes)
        self._runner = Runner(self._client.spool, self._client.discard)
        self._setup = setup
        context.register(self._client)
        self._streams = Streams()
        self._seeds = SeedWatch()
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._surroundings = Surroundings(self._streams.connect)
        on_fork(_forget_cluster)

    def _next_call(self) -> m.Call | None:
        handles = self._client.handles
        holds = handles is not None and handles.holds
        while True:
            try:
                if holds:
                    holds = False
                    self._arrived.listen(0.0)  # what rang for earlier calls
                    if self._calls.empty() and not self._arrived.listen(_IDLE_S):
                        # What only cycles of garbage refer to keeps its bytes, and no call may
                        # come for long: it goes now, and the link's thread says so.
                        gc.collect()
                return self._calls.get()
            except KeyboardInterrupt:
                # A cancellation that arrived after its call had ended.
                continue

    def _run(self, call: m.Call) -> None:
        function = self._functions[call.function]
        shape = function.shape
        attempt = Attempt(call, shape, self._setup.days, self._setup.job.id)
        # Before the ticket is shown as running: whoever sees it there may want to interrupt it.
        self._current = attempt
        if shape.timeout_s:
            # Before the ticket, which says that it is there.
            self._progress[1] = int(monotonic_s() * 1e9)
        self._progress[0] = call.ticket
        self._streams.begin(call.ticket, shape.name, time.monotonic())
        self._client.begin(attempt)
        self._seeds.undo()
        if self._surroundings.changed:
            # By a thread of an earlier task.
            self._surroundings.restore()
        try:
            outcome = self._runner.run(call, function)
            self._client.end()
        except KeyboardInterrupt:
            # The interrupt of a cancellation, between the user's code and its end here.
            outcome = m.Outcome(call.ticket, Verb.CANCELLED, (), 0)
        except SystemExit as leaving:
            self._exit(leaving)
        if os.getpid() != self._pid:
            # User code forked, and this is the child, which has come out of the task.
            os._exit(0)
        self._current = None
        self._tidy_up()
        function.calls += 1
        self._leaving = 0 < shape.max_calls <= function.calls
        with self._holding:
            self._held.append(outcome)
        self._runner.kept = None
        now_s = time.monotonic()
        # One that may not run again is not lost with what runs next.
        final = self._leaving or shape.max_retries == 0 or self._calls.empty()
        if final or now_s - self._last_sent_s > _HOLD_S:
            self._send_outcomes()
        handles = self._client.handles
        if handles is not None and handles.has_dropped:
            self._client.tell_handles()

    def _tidy_up(self) -> None:
        try:
            self._streams.finish()
            self._surroundings.restore()
        except OSError:
            # What is needed for that is closed, and the link with it.
            self._link_broken()
            os._exit(1)

    def _exit(self, leaving: SystemExit) -> NoReturn:
        """Do what `sys.exit` in a task asks for: to its agent that is the death of a process."""
        if os.getpid() == self._pid:
            sys.stderr.write(f"{format_traceback(leaving)}\n")
            self._streams.finish()
            self._send_outcomes()
        code = leaving.code
        os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))

    def _send_outcomes(self) -> None:
        with self._holding:
            if not self._held:
                return
            outcomes, self._held = tuple(self._held), []
            # Sent under the lock, so that groups of outcomes leave in order.
            self._last_sent_s = time.monotonic()
            self._link.send(m.Outcomes(outcomes, self._leaving))

    def _tick(self) -> float | None:
        """On the link's thread: see to what is due; how long until the next look (s)."""
        if self._held and time.monotonic() - self._last_sent_s > _HOLD_S:
            # A long call holds it back.
            self._send_outcomes()
        if self._interrupting:
            self._insist()
        if self._client.flush_due():
            return TICK_S
        self._client.tell_dropped()
        if self._held or self._interrupting or not self._calls.empty():
            return _LOOK_S
        handles = self._client.handles
        # What user code lets go of, while it runs long or in threads of its own, wakes nobody.
        return _HOLDING_LOOK_S if handles is not None and handles.holds else None

    def _insist(self) -> None:
        """Interrupt the call that is to be interrupted, until that reaches it or it has ended."""
        current = self._current
        if current is None or current.call.ticket != self._interrupting:
            self._interrupting = 0
        else:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Run):
            for call in message.calls:
                self._calls.put(call)
            self._arrived.ring()
        elif isinstance(message, m.Learn):
            self._functions[message.number] = Function(message.shape, message.pickled)
            # The same for all functions of one executor.
            context.inherit(message.shape.env_vars)
        elif isinstance(message, m.Recall):
            self._link.send(m.Returned(tuple(call.ticket for call in self._take_back())))
        elif isinstance(message, m.Interrupt):
            current = self._current
            if current is not None and current.call.ticket == message.ticket:
                if message.timed_out:
                    self._runner.expired = message.ticket
                else:
                    current.cancelled = True
                self._interrupting = message.ticket
        elif isinstance(message, m.Leave):
            self._calls.put(None)
            self._arrived.ring()
        else:
            self._client.handle(message)

    def _take_back(self) -> list[m.Call]:
        taken: list[m.Call] = []
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return taken
            if call is None:
                self._calls.put(None)
                return taken
            taken.append(call)

    def _on_interrupt(self, _signal: int, frame: FrameType | None) -> None:
        """Raise in user code only, only in the call that is meant, and never in half a message."""
        inside = self._runner.inside
        if inside and inside == self._interrupting and not _is_busy(frame):
            self._interrupting = 0
            if inside == self._runner.expired:
                self._runner.stopped = inside
            raise KeyboardInterrupt


#: Where an exception would leave half a message behind, or a lock taken, or would lose what has
#: been taken out to be sent.
_NEVER_IN = (
    Link.send.__code__,
    Executor._send_outcomes.__code__,  # noqa: SLF001 - this module's own
    ExecutorClient.submit.__code__,
    ExecutorClient.tell_handles.__code__,
    SubmitBuffer.flush.__code__,
    SubmitBuffer.flush_for.__code__,
    Account.__enter__.__code__,
    Account.__exit__.__code__,
    threading.Condition.__enter__.__code__,
    threading.Condition.__exit__.__code__,
)


def _is_busy(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _NEVER_IN:
            return True
        frame = frame.f_back
    return False


def _forget_cluster() -> None:
    """In a child forked from a task: the link to the agent is its parent's alone."""

    def refuse() -> NoReturn:
        msg = (
            "a process forked from a task has no connection to the cluster: use it in the task "
            "itself, or in a thread of it"
        )
        raise RuntimeError(msg)

    context.register(None)
    context.on_first_use(refuse)


def serve(socket_path: str, token: str, progress_path: str) -> NoReturn:
    """Be an executor until the agent says that no more calls will come; does not return."""
    die_with_parent()
    # A crash in native code says where it was, on standard error.
    faulthandler.enable(2, all_threads=False)
    descriptor = os.open(progress_path, os.O_RDWR)
    progress = mmap.mmap(descriptor, mmap.PAGESIZE)
    os.close(descriptor)
    Executor(Link(socket_path), token, progress).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and exit handlers of user code do not get to keep the machine's slot.
    os._exit(0)
