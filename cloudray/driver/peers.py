"""The agents that this driver can reach: doorbells to ring, and hints to listen to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from cloudray import platform
from cloudray.protocol import messages as m
from cloudray.protocol.messages import Message, Unpacker, pack

#: Above what malloc takes from its heap, every read would map and unmap memory.
_READ_BYTES = 1 << 15
#: A message that comes within this time after another was sent with it.
_CLOSE_BEHIND_S = 0.02


class Peer:
    """A connection to one agent."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.socket = connection
        self.address = address
        self.greeting: m.Greeting | None = None
        self._unpacker = Unpacker()
        self._unsent = b""
        # Taken again by a signal handler that submits, within a `send` of its own thread.
        self._sending = threading.RLock()
        self._is_sending = False
        #: what is to be sent
        self._outbox: deque[Message] = deque()

    def send(self, message: Message) -> bool:
        """Send a hint; False if the agent is gone.

        Never waits: an agent that does not listen (paused, say) finds the work by scanning.
        """
        try:
            with self._sending:
                self._outbox.append(message)
                if self._is_sending:
                    return True  # a moment later: not into the midst of another frame
                try:
                    self._is_sending = True
                    while self._outbox:
                        self._send(self._outbox.popleft())
                finally:
                    self._is_sending = False
        except OSError:
            return False
        return True

    def _send(self, message: Message) -> None:
        if self._unsent:
            self._unsent = self._unsent[self._write(self._unsent) :]
        if not self._unsent:
            frame = pack(message)
            sent = self._write(frame)
            # Half a frame must be finished before anything else; a whole one is dropped.
            self._unsent = frame[sent:] if sent else b""

    def _write(self, data: bytes) -> int:
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    @property
    def halfway(self) -> bool:
        """Whether the rest of a message is still to come."""
        return self._unpacker.halfway

    def receive(self) -> list[Message] | None:
        """What has come; None at the end of the connection."""
        try:
            data = self.socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []  # a signal handler that waits has read it
        except OSError:
            return None
        return self._unpacker.feed(data) if data else None


class Peers:
    """All reachable agents; one thread at a time waits for them."""

    def __init__(
        self, job: bytes, *, want_logs: bool, on_lost: Callable[[Peer], None], days: int = 7
    ) -> None:
        self._attach = m.Attach(job, want_logs, days)
        self._on_lost = on_lost
        self._poll = platform.poller()
        self._is_polling = self._is_reading = False
        self._by_descriptor: dict[int, Peer] = {}
        # Sockets, because not every system can wait for a pipe.
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._poll.register(self._woken, platform.READABLE)

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def addresses(self) -> set[str]:
        """Whom we are connected to."""
        return {peer.address for peer in list(self._by_descriptor.values())}

    def connect(self, address: str) -> Peer | None:
        """Connect to an agent's socket; None if nobody answers there (or not on this machine)."""
        try:
            connection = platform.unix_socket()
        except OSError:
            return None
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
        self._poll.register(connection, platform.READABLE)
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
        self.listen(timeout_s, received.append)
        return received

    def listen(self, timeout_s: float, take: Callable[[tuple[Peer, Message]], object]) -> None:
        """Take in messages that come within the time; returns early when woken.

        A signal handler may listen while its thread does.
        """
        if self._is_reading:
            # What comes now must not be read before what is being read.
            time.sleep(min(timeout_s, _CLOSE_BEHIND_S))
            return
        ready = self._await(timeout_s)
        if not ready:
            return
        try:
            self._is_reading = True
            lost = self._read(ready, take)
        finally:
            self._is_reading = False
        for peer in lost:
            self._on_lost(peer)

    def _await(self, timeout_s: float) -> list[int]:
        """The descriptors that can be read, once there are any or the time is up."""
        polls_already = self._is_polling
        poll = self._poll
        if polls_already:
            # No poll can be entered twice.
            poll = platform.poller()
            for descriptor in (self._woken.fileno(), *list(self._by_descriptor)):
                poll.register(descriptor, platform.READABLE)
        try:
            self._is_polling = True
            return [descriptor for descriptor, _ in poll.poll(timeout_s * 1000)]
        finally:
            self._is_polling = polls_already

    def _read(
        self, descriptors: list[int], take: Callable[[tuple[Peer, Message]], object]
    ) -> list[Peer]:
        """Take in what can be read; returns those that have hung up."""
        lost = []
        for descriptor in descriptors:
            if descriptor == self._woken.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                continue
            peer = self._by_descriptor.get(descriptor)
            if peer is None:
                continue
            messages = peer.receive()
            if messages is None:
                self._drop(peer)
                lost.append(peer)
            else:
                for message in messages:
                    take((peer, message))
        return lost

    def last_messages(self, limit_s: float) -> Iterator[Message]:
        """What has come, and what follows close behind it; at most for so long."""
        deadline_s = time.monotonic() + limit_s
        patience_s = 0.0
        while time.monotonic() < deadline_s:
            messages = self.wait(patience_s)
            yield from (message for _, message in messages)
            if not messages and not any(peer.halfway for peer in self._by_descriptor.values()):
                return
            patience_s = _CLOSE_BEHIND_S

    def wake(self) -> None:
        """Make a thread return that is in `wait`."""
        with contextlib.suppress(OSError):  # it was woken already, or we have hung up
            self._waker.send(b"!")

    def close(self) -> None:
        """Hang up on all, and release the descriptors."""
        for peer in list(self._by_descriptor.values()):
            self._drop(peer)
        self._woken.close()
        self._waker.close()

    def _drop(self, peer: Peer) -> None:
        descriptor = peer.socket.fileno()
        if self._by_descriptor.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
            peer.socket.close()
