"""While a simulated world runs, the package takes time, randomness and threads from it.

The modules that a world runs get, for as long as it runs, stand-ins for the modules `time`, `os`
and `threading` of the standard library under the names by which they import them. So the code
under test is unchanged, and costs nothing more when nobody simulates.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from cloudray.bells.sqs import Channel
from cloudray.driver.background import Background
from cloudray.driver.peers import Peer, Peers
from cloudray.protocol import messages as m
from cloudray.store import envelope
from cloudray.store.base import Store
from cloudray.testing import threads
from cloudray.testing.queue import SimulatedQueue, VirtualChannel
from cloudray.testing.scheduler import Process, Scheduler

#: Modules (or whole packages, by their name and a dot) that run inside a world.
_INSIDE = (
    "cloudray.ids",
    "cloudray.interrupts",
    "cloudray.store.envelope",
    "cloudray.agent.",
    "cloudray.bells.",
    "cloudray.driver.",
    "cloudray.protocol.",
)
#: Imported before names are replaced in them.
_NEEDED = ("cloudray.driver.client", "cloudray.agent.core")


class Inside:
    """A world as the code that runs in it sees it."""

    def __init__(
        self, scheduler: Scheduler, rng: Random, queue: SimulatedQueue | None = None
    ) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._rng = rng
        self.time = _stand_in(
            time,
            monotonic=self._monotonic_s,
            time=self._wall_s,
            perf_counter=self._monotonic_s,
            sleep=self._sleep,
        )
        self.os = _stand_in(os, urandom=rng.randbytes)
        baton = scheduler.baton
        self.threading = _stand_in(
            threading,
            Thread=self._thread,
            Lock=lambda: threads.Lock(baton),
            RLock=lambda: threads.Lock(baton, reentrant=True),
            Condition=lambda lock=None: threads.Condition(baton, lock),
            Event=lambda: threads.Event(baton),
            current_thread=lambda: baton.holder or threading.current_thread(),
            get_ident=lambda: (baton.holder and baton.holder.ident) or -1,
        )

    def stand_ins(self) -> dict[int, Any]:
        """What stands in for what, by the identity of the original."""
        return {
            id(time): self.time,
            id(os): self.os,
            id(threading): self.threading,
            id(Background): lambda: VirtualBackground(_must(self.process())),
            id(Peers): lambda *_, **__: NoPeers(self._scheduler.baton),
            id(Channel): self._channel,
        }

    def _channel(self, store: Store, url: str, cluster: str) -> VirtualChannel:
        if self._queue is None:
            msg = "this world has no queue"
            raise RuntimeError(msg)
        return VirtualChannel(self._queue, _must(self.process()), store, url, cluster)

    def process(self) -> Process | None:
        """Whose code runs now."""
        thread = self._scheduler.baton.holder
        return self._scheduler.current if thread is None else thread.process

    def _monotonic_s(self) -> float:
        process = self.process()
        return self._scheduler.now_s if process is None else process.time()

    def _wall_s(self) -> float:
        process = self.process()
        return 1.8e9 + self._scheduler.now_s if process is None else process.wall_s()

    def _sleep(self, delay_s: float) -> None:
        thread = self._scheduler.baton.holder
        if thread is None:
            msg = "an event loop would sleep"
            raise RuntimeError(msg)
        thread.park(delay_s)

    def _thread(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> threads.VirtualThread:
        del group, daemon
        process = self.process()
        if process is None or target is None:
            msg = "threads are started by processes of the world"
            raise RuntimeError(msg)
        return threads.VirtualThread(process, target, args, kwargs, name or "thread")


def _stand_in(module: ModuleType, **names: Any) -> Any:
    return SimpleNamespace(**(vars(module) | names))


class VirtualBackground:
    """Stands in for `driver.background.Background`: its loop is the driver's process itself."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tasks: dict[Any, None] = {}
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run a coroutine in the driver's process; False after `close`."""
        if self._closed:
            work.close()
            return False
        task = self._process.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return True

    def close(self) -> None:
        """Cancel what runs."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    def forget(self) -> None:
        """Let go of it."""
        self._closed = True


class NoPeers:
    """Stands in for `driver.peers.Peers`: all agents are on other machines, so none is reached."""

    def __init__(self, baton: threads.Baton) -> None:
        self._baton = baton
        self._waiting: threads.VirtualThread | None = None
        self._woken = False

    def __len__(self) -> int:
        return 0

    def addresses(self) -> set[str]:
        """Nobody."""
        return set()

    def connect(self, address: str) -> Peer | None:
        """Nobody answers."""
        del address
        return None

    def send(self, message: m.Message) -> None:
        """Nobody hears."""

    def listen(self, timeout_s: float, take: Callable[[tuple[Peer, m.Message]], object]) -> None:
        """Let time pass, until woken."""
        del take
        thread = self._baton.holder
        if not self._woken and timeout_s > 0 and thread is not None:
            self._waiting = thread
            thread.park(timeout_s)
            self._waiting = None
        self._woken = False

    def last_messages(self, limit_s: float) -> Iterator[m.Message]:
        """None."""
        del limit_s
        return iter(())

    def wake(self) -> None:
        """Make a thread return that is in `listen`."""
        self._woken = True
        if self._waiting is not None:
            self._waiting.unpark()

    def close(self) -> None:
        """Nothing to hang up."""


@contextlib.contextmanager
def installed(inside: Inside) -> Iterator[None]:
    """Put a world's time, randomness and threads in the place of the real ones."""
    for name in _NEEDED:
        importlib.import_module(name)
    replaced: list[tuple[ModuleType, str, Any]] = []

    def replace(module: ModuleType, name: str, substitute: Any) -> None:
        replaced.append((module, name, getattr(module, name)))
        setattr(module, name, substitute)

    envelope._nonces.clear()  # noqa: SLF001 - drawn from elsewhere
    try:
        stand_ins = inside.stand_ins()
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith(_INSIDE):
                for name, value in list(vars(module).items()):
                    if id(value) in stand_ins:
                        replace(module, name, stand_ins[id(value)])
        yield
    finally:
        for module, name, original in reversed(replaced):
            setattr(module, name, original)
        envelope._nonces.clear()  # noqa: SLF001 - nobody outside may get these


def _must(process: Process | None) -> Process:
    if process is None:
        msg = "only processes of the world have a background"
        raise RuntimeError(msg)
    return process
