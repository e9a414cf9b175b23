"""The executor's connection to its agent."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable

from cloudray.protocol.messages import Message, Unpacker, pack

#: Above what malloc takes from its heap, every read would map and unmap memory.
_READ_BYTES = 1 << 15


class Link:
    """Sends from any thread, receives on one of its own.

    When the agent goes, this process goes: an executor without an agent could only do harm.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._sending = threading.Lock()
        self._unpacker = Unpacker()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def send(self, message: Message) -> None:
        """Send one message; messages of one thread arrive in order."""
        frame = pack(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError:
            os._exit(1)

    def receive(self) -> list[Message]:
        """Wait for the next messages."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                os._exit(1)
            messages = self._unpacker.feed(data)
            if messages:
                return messages

    def receive_forever(
        self, handle: Callable[[Message], None], tick: Callable[[], float | None]
    ) -> None:
        """Handle messages as they come; `tick` runs in between and says when to run again (s)."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            timeout_s = tick()
            for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
                if descriptor == self._wake_read:
                    os.read(descriptor, 4096)
                else:
                    for message in self.receive():
                        handle(message)

    def wake(self) -> None:
        """Make `receive_forever` run its `tick` now."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")
