"""`python -m cloudray.executor SOCKET TOKEN PROGRESS_FILE`: started by an agent, not by hand."""

from __future__ import annotations

import mmap
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from cloudray import context
from cloudray.executor.client import Attempt, ExecutorClient
from cloudray.executor.link import Link
from cloudray.executor.output import Speaker, capture
from cloudray.executor.run import Function, Runner
from cloudray.platform import die_with_parent
from cloudray.protocol import messages as m
from cloudray.protocol.records import Verb

#: Outcomes are sent together, but none is held back longer than this.
_HOLD_S = 0.005
#: How often the link's thread looks whether outcomes are held back by a call that runs long.
_LOOK_S = 0.02


class Executor:
    """Runs calls on the main thread while another thread listens to the agent."""

    def __init__(self, link: Link, token: str, progress: mmap.mmap) -> None:
        self._link = link
        self._token = token
        self._progress = memoryview(progress).cast("Q")
        self._calls: queue.SimpleQueue[m.Call | None] = queue.SimpleQueue()
        self._functions: dict[int, Function] = {}
        self._held: list[m.Outcome] = []
        self._holding = threading.Lock()
        self._last_sent_s = 0.0
        self._speaker = Speaker()
        self._leaving = False
        self._interrupted = 0
        self._current: Attempt | None = None

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
        threading.Thread(
            target=self._link.receive_forever,
            args=(self._handle, self._tick),
            name="cloudray-link",
            daemon=True,
        ).start()
        while (call := self._next_call()) is not None:
            self._run(call)
            if self._leaving:
                break
        self._send_outcomes()

    def _prepare(self, setup: m.Setup) -> None:
        for entry in reversed(setup.job.sys_path):
            if entry not in sys.path:
                sys.path.insert(0, entry)
        if Path(setup.job.cwd).is_dir():
            os.chdir(setup.job.cwd)
        self._client = ExecutorClient(self._link.send, setup)
        self._runner = Runner(self._client.spool)
        self._setup = setup
        context.register(self._client)
        self._streams = capture(self._speaker)
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _next_call(self) -> m.Call | None:
        while True:
            try:
                return self._calls.get()
            except KeyboardInterrupt:
                # A cancellation that arrived after its call had ended.
                continue

    def _run(self, call: m.Call) -> None:
        function = self._functions[call.function]
        shape = function.shape
        self._progress[0] = call.ticket
        speaker = self._speaker
        speaker.ticket = call.ticket
        speaker.name = shape.name
        attempt = Attempt(call, self._setup.days, self._setup.job.id)
        attempt.shape = shape
        self._current = attempt
        self._client.begin(attempt)
        try:
            outcome = self._runner.run(call, function)
            self._client.end()
        except KeyboardInterrupt:
            # The interrupt of a cancellation, between the user's code and its end here.
            outcome = m.Outcome(call.ticket, Verb.CANCELLED, (), 0)
        for stream in self._streams:
            stream.finish()
        function.calls += 1
        self._leaving = 0 < shape.max_calls <= function.calls
        with self._holding:
            self._held.append(outcome)
        now_s = time.monotonic()
        if self._leaving or self._calls.empty() or now_s - self._last_sent_s > _HOLD_S:
            self._send_outcomes()

    def _send_outcomes(self) -> None:
        with self._holding:
            if not self._held:
                return
            outcomes, self._held = tuple(self._held), []
            # Sent under the lock, so that groups of outcomes leave in order.
            self._last_sent_s = time.monotonic()
            self._link.send(m.Outcomes(outcomes, self._leaving))

    def _tick(self) -> float | None:
        """On the link's thread: send what a long call holds back; how long until the next look."""
        if self._held and time.monotonic() - self._last_sent_s > _HOLD_S:
            self._send_outcomes()
        return _LOOK_S if self._held or not self._calls.empty() else None

    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Run):
            for call in message.calls:
                self._calls.put(call)
        elif isinstance(message, m.Learn):
            self._functions[message.number] = Function(message.shape, message.pickled)
        elif isinstance(message, m.Recall):
            self._link.send(m.Returned(tuple(call.ticket for call in self._take_back())))
        elif isinstance(message, m.Interrupt):
            self._interrupted = message.ticket
            if self._current is not None and self._current.call.ticket == message.ticket:
                self._current.cancelled = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        elif isinstance(message, m.Leave):
            self._calls.put(None)
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

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Raise in user code only, and only in the call that is meant."""
        if self._runner.inside and self._runner.inside == self._interrupted:
            raise KeyboardInterrupt


def main() -> None:
    """Connect to the agent and serve it."""
    path, token, progress_path = sys.argv[1:4]
    die_with_parent()
    descriptor = os.open(progress_path, os.O_RDWR)
    progress = mmap.mmap(descriptor, mmap.PAGESIZE)
    os.close(descriptor)
    sys.argv[1:] = []
    executor = Executor(Link(path), token, progress)
    executor.serve()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and exit handlers of user code do not get to keep the machine's slot.
    os._exit(0)


if __name__ == "__main__":
    main()
