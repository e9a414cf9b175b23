"""The agent's Unix socket: frames in, frames out, for executors and drivers alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from cloudray.protocol.messages import Message, Unpacker, pack

#: Hints to a peer that has this much unread are dropped.
MAX_UNREAD_BYTES = 16 << 20


class Connection(asyncio.Protocol):
    """One peer. What it is shows in its first message."""

    def __init__(
        self,
        on_message: Callable[[Connection, Message], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._unpacker = Unpacker()
        self._transport: asyncio.Transport | None = None
        #: what the agent knows this peer as
        self.peer: object = None

    def send(self, message: Message) -> None:
        """Send a message; one to a peer that has gone is dropped, as any hint may be."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(message))

    @property
    def unread_bytes(self) -> int:
        """How much was sent that the peer has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def hint(self, message: Message) -> None:
        """Send what may be lost: dropped when the peer has long not listened."""
        if self.unread_bytes < MAX_UNREAD_BYTES:
            self.send(message)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        for message in self._unpacker.feed(data):
            self._on_message(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        del exc
        self._transport = None
        self._on_close(self)
