"""Two ways to start an executor: from the zygote, or as a fresh interpreter."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Protocol

import msgspec

from cloudray.executor.zygote import StartRequest, command_of

#: What is reported of an executor whose zygote died with it.
_UNKNOWN_STATUS = -9


class Starter(Protocol):
    """Starts executors, and reaps them."""

    def start(
        self, request: StartRequest, output: tuple[int, int], on_pid: Callable[[int], None]
    ) -> None:
        """Start one; closes the descriptors, and says its pid when it has one."""

    def reap(self, pid: int, on_status: Callable[[int], None]) -> None:
        """Ask how one ended that has ended."""


class FreshStarter:
    """Starts a Python interpreter for each executor."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self, request: StartRequest, output: tuple[int, int], on_pid: Callable[[int], None]
    ) -> None:
        """Start one now."""
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command_of(self._socket_path, request),
            stdin=subprocess.DEVNULL,
            stdout=output[0],
            stderr=output[1],
            start_new_session=True,
            env=os.environ | request.env,
        )
        for descriptor in output:
            os.close(descriptor)
        self._processes[process.pid] = process
        on_pid(process.pid)

    def has(self, pid: int) -> bool:
        """Whether it was started here."""
        return pid in self._processes

    def reap(self, pid: int, on_status: Callable[[int], None]) -> None:
        """It has ended, so this does not wait."""
        on_status(self._processes.pop(pid).wait())


class ZygoteStarter:
    """Asks a zygote to fork; turns to fresh interpreters if it should die."""

    def __init__(self, control: socket.socket, instead: FreshStarter) -> None:
        self._control = control
        self._instead = instead
        self._dead = False
        self._starting: dict[str, Callable[[int], None]] = {}
        self._reaping: dict[int, Callable[[int], None]] = {}
        control.settimeout(0)
        asyncio.get_running_loop().add_reader(control.fileno(), self._answers)

    def expect(self, token: str, on_pid: Callable[[int], None]) -> None:
        """The zygote was told of this one when it was forked."""
        self._starting[token] = on_pid

    def start(
        self, request: StartRequest, output: tuple[int, int], on_pid: Callable[[int], None]
    ) -> None:
        """Ask for one."""
        if self._dead:
            self._instead.start(request, output, on_pid)
            return
        body = msgspec.msgpack.encode(request)
        try:
            socket.send_fds(self._control, [body], list(output))
        except OSError:
            # Its queue is full, or it is gone: a slow start is better than none.
            self._instead.start(request, output, on_pid)
            return
        for descriptor in output:
            os.close(descriptor)
        self._starting[request.token] = on_pid

    def reap(self, pid: int, on_status: Callable[[int], None]) -> None:
        """Ask how one ended."""
        if self._instead.has(pid):
            self._instead.reap(pid, on_status)
        elif self._dead:
            on_status(_UNKNOWN_STATUS)
        else:
            try:
                self._control.send(msgspec.msgpack.encode({"reap": pid}))
            except OSError:
                # Its queue is full, or it has gone and we are yet to hear of it.
                on_status(_UNKNOWN_STATUS)
            else:
                self._reaping[pid] = on_status

    def close(self) -> None:
        """Hang up: the zygote ends."""
        if not self._dead:
            self._dead = True
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()

    def _answers(self) -> None:
        while not self._dead:
            try:
                body = self._control.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                body = b""
            if not body:
                self._died()
                return
            answer = msgspec.msgpack.decode(body)
            if "status" in answer:
                self._reaping.pop(answer["pid"])(answer["status"])
            else:
                self._starting.pop(answer["token"])(answer["pid"])

    def _died(self) -> None:
        """Its executors die with it; those it had not started yet never will be."""
        self.close()
        reaping, self._reaping = self._reaping, {}
        for on_status in reaping.values():
            on_status(_UNKNOWN_STATUS)
        starting, self._starting = self._starting, {}
        for on_pid in starting.values():
            on_pid(0)
