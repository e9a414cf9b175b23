"""The agents that this driver can reach: doorbells to ring, and hints to listen to."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable

from cloudray.protocol import messages as m
from cloudray.protocol.messages import Message, Unpacker, pack

#: Above what malloc takes from its heap, every read would map and unmap memory.
_READ_BYTES = 1 << 15


class Peer:
    """A connection to one agent."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.socket = connection
        self.address = address
        self.greeting: m.Greeting | None = None
        self._unpacker = Unpacker()
        self._unsent = b""
        self._sending = threading.Lock()

    def send(self, message: Message) -> bool:
        """Send a hint; False if the agent is gone.

        Never waits: an agent that does not listen (paused, say) finds the work by scanning.
        """
        try:
            with self._sending:
                if self._unsent:
                    self._unsent = self._unsent[self._write(self._unsent) :]
                if not self._unsent:
                    frame = pack(message)
                    sent = self._write(frame)
                    # Half a frame must be finished before anything else; a whole one is dropped.
                    self._unsent = frame[sent:] if sent else b""
        except OSError:
            return False
        return True

    def _write(self, data: bytes) -> int:
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def receive(self) -> list[Message] | None:
        """What has come; None at the end of the connection."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except OSError:
            return None
        return self._unpacker.feed(data) if data else None


class Peers:
    """All reachable agents; one thread at a time waits for them."""

    def __init__(self, job: bytes, *, want_logs: bool, on_lost: Callable[[Peer], None]) -> None:
        self._attach = m.Attach(job, want_logs)
        self._on_lost = on_lost
        self._poll = select.poll()
        self._by_descriptor: dict[int, Peer] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll.register(self._wake_read, select.POLLIN)

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def addresses(self) -> set[str]:
        """Whom we are connected to."""
        return {peer.address for peer in list(self._by_descriptor.values())}

    def connect(self, address: str) -> Peer | None:
        """Connect to an agent's socket; None if nobody answers there (or not on this machine)."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A paused agent accepts nobody, and its queue of those who wait may be full.
            connection.settimeout(0)
            connection.connect(address)
            connection.settimeout(None)
        except OSError:
            connection.close()
            return None
        peer = Peer(connection, address)
        self._by_descriptor[connection.fileno()] = peer
        self._poll.register(connection, select.POLLIN)
        if not peer.send(self._attach):
            self._drop(peer)
            return None
        return peer

    def send(self, message: Message) -> None:
        """Send a hint to every agent."""
        for peer in list(self._by_descriptor.values()):
            peer.send(message)

    def wait(self, timeout_s: float) -> list[tuple[Peer, Message]]:
        """Messages that come within the time; returns early when woken."""
        received: list[tuple[Peer, Message]] = []
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            if descriptor == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
                continue
            peer = self._by_descriptor.get(descriptor)
            if peer is None:
                continue
            messages = peer.receive()
            if messages is None:
                self._drop(peer)
                self._on_lost(peer)
            else:
                received += [(peer, message) for message in messages]
        return received

    def wake(self) -> None:
        """Make a thread return that is in `wait`."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def close(self) -> None:
        """Hang up on all, and release the descriptors."""
        for peer in list(self._by_descriptor.values()):
            self._drop(peer)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _drop(self, peer: Peer) -> None:
        descriptor = peer.socket.fileno()
        if self._by_descriptor.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
            peer.socket.close()
