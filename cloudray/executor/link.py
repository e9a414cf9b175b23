"""The executor's connection to its agent."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from collections.abc import Callable
from typing import NoReturn

from cloudray.platform import end_own_group, unix_socket
from cloudray.protocol.messages import Message, Unpacker, pack

#: Above what malloc takes from its heap, every read would map and unmap memory.
_READ_BYTES = 1 << 15


class Link:
    """Sends from any thread, receives on one of its own.

    When the agent goes, this process goes: an executor without an agent could only do harm.
    """

    def __init__(self, path: str) -> None:
        self._socket = unix_socket()
        self._socket.connect(path)
        self._sending = threading.Lock()
        self._unpacker = Unpacker()
        #: called when something in this process has closed the link's descriptors
        self.on_broken: Callable[[], None] = lambda: None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def send(self, message: Message) -> None:
        """Send one message; messages of one thread arrive in order."""
        frame = pack(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError as error:
            self._end(error)

    def receive(self) -> list[Message]:
        """Wait for the next messages."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError as error:
                self._end(error)
            if not data:
                end_own_group()
            messages = self._unpacker.feed(data)
            if messages:
                return messages

    def _end(self, error: OSError) -> NoReturn:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            # The agent is there; it ends what this process has started, and says why.
            self.on_broken()
            os._exit(1)
        end_own_group()

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
                    try:
                        os.read(descriptor, 4096)
                    except OSError as error:
                        self._end(error)
                else:
                    for message in self.receive():
                        handle(message)

    def wake(self) -> None:
        """Make `receive_forever` run its `tick` now."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")
