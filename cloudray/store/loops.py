"""An event loop on a thread of its own, for whoever has none, or another one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

#: So long gets what is cancelled to end.
PATIENCE_S = 5.0


class LoopThread:
    """Runs coroutines on its loop, for callers on any thread and any loop.

    >>> async def answer(): return 42
    >>> loop = LoopThread("cloudray-example")
    >>> loop.run(answer())
    42
    >>> loop.close()
    """

    def __init__(self, name: str, *, ignoring: frozenset[str] = frozenset()) -> None:
        """Start the thread, which is called `name`.

        `ignoring` are complaints of objects that are not closed before the interpreter ends.
        """
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()

        def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if context.get("message") not in ignoring:
                loop.default_exception_handler(context)

        self._loop.set_exception_handler(complain)
        self._loop.set_default_executor(_Threads(1))
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return os.getpid() != self._pid

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and wait for its result; whoever is interrupted meanwhile cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and wait for its result on another loop; a cancellation is passed on."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop, without waiting for that."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancel what runs on the loop, and stop it and its thread.

        Idempotent; in a forked child nothing is left to stop.
        """
        if self.lost or self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=PATIENCE_S)


class _Threads(ThreadPoolExecutor):
    """A thread for each call: a pool takes no work any more once its interpreter is ending.

    Names of hosts are looked up on these threads, and what a driver does at its exit may need it.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the future raises it
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name="cloudray-lookup", daemon=True).start()
        return future
