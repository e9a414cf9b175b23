"""The agent's Unix socket: frames in, frames out, for executors and drivers alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import cast

from cloudray.protocol.messages import Message, Unpacker, pack

_log = logging.getLogger(__name__)

#: Hints to a peer that has this much unread are dropped.
MAX_UNREAD_BYTES = 16 << 20
_READ_BYTES = 1 << 16


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
        #: the same connection, to read from when the transport has closed
        self._spare: socket.socket | None = None
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
        self._release()

    def keep(self) -> None:
        """See to it that `hear_out` can be called, whatever becomes of the connection."""
        if self._transport is not None and self._spare is None:
            carrier = self._transport.get_extra_info("socket")
            if carrier is not None:
                self._spare = socket.socket(fileno=os.dup(carrier.fileno()))

    def hear_out(self) -> None:
        """Handle what a peer said that has ended, and hang up.

        Why not wait for the event loop: a write to a peer that has ended closes the transport,
        and what lies unread in the socket then would be lost. It is in order, for the loop hands
        on at once what it reads.
        """
        try:
            while self._spare and (data := self._spare.recv(_READ_BYTES, socket.MSG_DONTWAIT)):
                self.data_received(data)
        except OSError:
            pass  # all is read, or it left something of ours unread
        except Exception:  # noqa: BLE001 - whoever hears it out has more to do
            _log.exception("what an executor said last could not be understood")
        self.close()

    def _release(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

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
        if self._spare is not None:
            with contextlib.suppress(OSError):  # it has gone
                # One that lives hears that it is not heard any more.
                self._spare.shutdown(socket.SHUT_WR)
        self._on_close(self)
