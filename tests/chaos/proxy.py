"""A bad network between clients and an S3: a TCP proxy that knows just enough of HTTP to harm it.

Every client has a door of its own, a port, so that one machine can be cut off. On its way through
a door a request waits a little, and now and then

- is answered with 503 SlowDown, and goes no further,
- loses its connection with half of it sent,
- goes through, and the answer is lost: who sent it cannot know what happened,
- or loses its connection with half of the answer sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from enum import Enum
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

_READ_BYTES = 1 << 16
#: Of the head of a request or an answer.
_HEAD_BYTES = 1 << 20
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Fate(Enum):
    """What becomes of a request."""

    #: nothing happens to it
    PASSED = "passed"
    #: 503 SlowDown, without asking the server
    REFUSED = "refused"
    #: half of it reaches the server
    HALF_SENT = "half sent"
    #: it is served, and the answer is lost
    UNANSWERED = "unanswered"
    #: half of the answer comes back
    HALF_ANSWERED = "half answered"


class Weather(NamedTuple):
    """How bad the network is: shares of the requests, and seconds."""

    refused: float = 0.02
    half_sent: float = 0.01
    unanswered: float = 0.01
    half_answered: float = 0.01
    #: the mean; each request waits for a time of its own
    latency_s: float = 0.004
    #: now and then it is much longer
    hiccup: float = 0.01
    hiccup_s: float = 0.3

    def fate(self, rng: Random) -> Fate:
        """Draw one."""
        shares = (self.refused, self.half_sent, self.unanswered, self.half_answered)
        drawn = rng.random()
        for fate, share in zip(list(Fate)[1:], shares, strict=True):
            drawn -= share
            if drawn < 0:
                return fate
        return Fate.PASSED

    def wait_s(self, rng: Random) -> float:
        """Draw how long a request is on its way."""
        mean_s = self.hiccup_s if rng.random() < self.hiccup else self.latency_s
        return rng.expovariate(1 / mean_s)


CALM = Weather(0, 0, 0, 0, 0.001, 0)


class Door:
    """One client's way to the server: a port. The methods may be called on any thread."""

    def __init__(self, proxy: Proxy, port: int) -> None:
        self._proxy = proxy
        self.port = port
        #: how often which fate was dealt out
        self.fates: Counter[Fate] = Counter()
        self.refuses = False
        #: unset while nothing moves, in neither direction
        self.flows = asyncio.Event()
        self.flows.set()
        self.connections: set[asyncio.StreamWriter] = set()

    def stall(self) -> None:
        """Let nothing through, as a network that loses all packets; what is sent comes later."""
        self._proxy.call(self.flows.clear)

    def cut(self) -> None:
        """End all connections, and take no others."""
        self._proxy.call(self._cut)

    def heal(self) -> None:
        """Let everything through again."""
        self._proxy.call(self._heal)

    def _cut(self) -> None:
        self.refuses = True
        for writer in self.connections:
            writer.transport.abort()

    def _heal(self) -> None:
        self.refuses = False
        self.flows.set()


class Proxy:
    """Doors to the server at a port of this machine, served on a thread of its own."""

    def __init__(self, port: int, seed: int, weather: Weather = CALM) -> None:
        self._port = port
        self._rng = Random(seed)
        self.weather = weather
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.doors: list[Door] = []
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self) -> Door:
        """Open a door."""
        return asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def call(self, action: Callable[[], object]) -> None:
        """Do something on the proxy's thread, and wait until it is done."""

        async def perform() -> None:
            action()

        asyncio.run_coroutine_threadsafe(perform(), self._loop).result()

    def fates(self) -> Counter[Fate]:
        """How often which fate was dealt out, at all doors."""
        return sum((door.fates for door in self.doors), Counter())

    async def _open(self) -> Door:
        door = Door(self, 0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            door.connections.add(writer)
            try:
                # One of the two ends may hang up.
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    if not door.refuses:
                        await self._serve(door, reader, writer)
                        writer.close()
                        await writer.wait_closed()
            finally:
                writer.transport.abort()
                door.connections.discard(writer)

        # A function, not a coroutine: asyncio's own tasks complain when they are cancelled.
        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        server = await asyncio.start_server(begin, "127.0.0.1", 0, limit=_HEAD_BYTES)
        door.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        self.doors.append(door)
        return door

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(
        self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass one request after the other."""
        async with contextlib.AsyncExitStack() as stack:
            server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fate = self.weather.fate(self._rng)
                door.fates[fate] += 1
                await asyncio.sleep(self.weather.wait_s(self._rng))
                await door.flows.wait()
                if b"\r\nexpect: 100-continue\r\n" in head.lower():
                    # Answered here; so the server never says it.
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = _without(head, b"expect:")
                body = _body(reader, head)
                if fate is Fate.REFUSED:
                    async for _ in body:
                        pass
                    writer.write(_answer(b"503 Slow Down", _SLOW_DOWN))
                    await writer.drain()
                    continue
                if server is None:
                    server = await asyncio.open_connection(
                        "127.0.0.1", self._port, limit=_HEAD_BYTES
                    )
                    stack.callback(server[1].close)
                answered, asked = server
                asked.write(head)
                if fate is Fate.HALF_SENT:
                    await _half(body, head, asked)
                    return
                async for piece in body:
                    await door.flows.wait()
                    asked.write(piece)
                    await asked.drain()
                if not await self._answer(door, fate, head, answered, writer):
                    return

    async def _answer(
        self,
        door: Door,
        fate: Fate,
        request: bytes,
        answered: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass an answer back; whether the connection goes on."""
        head = await answered.readuntil(b"\r\n\r\n")
        body = _body(answered, head, request)
        await door.flows.wait()
        if fate is Fate.UNANSWERED:
            async for _ in body:
                pass
            return False
        writer.write(head)
        if fate is Fate.HALF_ANSWERED:
            await _half(body, head, writer)
            return False
        async for piece in body:
            await door.flows.wait()
            writer.write(piece)
            await writer.drain()
        return _header(head, b"connection") != b"close" and _has_end(head, request)


async def _half(body: AsyncIterator[bytes], head: bytes, writer: asyncio.StreamWriter) -> None:
    """Send half of a body, and see that it gets there before the connection ends."""
    left = int(_header(head, b"content-length") or 0) // 2
    async for piece in body:
        writer.write(piece[:left])
        left -= len(piece)
        if left <= 0:
            break
    await writer.drain()


async def _body(
    reader: asyncio.StreamReader, head: bytes, request: bytes | None = None
) -> AsyncIterator[bytes]:
    """The bytes behind a head, as they stand; of an answer when its `request` is given."""
    if request is not None and not _has_body(head, request):
        return
    if _header(head, b"transfer-encoding") == b"chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if size == 0:
                return
    length = _header(head, b"content-length")
    if length is None and request is not None:
        # It ends with its connection.
        while piece := await reader.read(_READ_BYTES):
            yield piece
        return
    left = int(length or 0)
    while left:
        piece = await reader.read(min(left, _READ_BYTES))
        if not piece:
            raise ConnectionResetError
        left -= len(piece)
        yield piece


def _has_body(head: bytes, request: bytes) -> bool:
    """Whether an answer to this request has one."""
    status = head.split(b" ", 2)[1][:3]
    return not request.startswith(b"HEAD ") and status not in {b"204", b"304"}


def _has_end(head: bytes, request: bytes) -> bool:
    """Whether the end of an answer can be told without that of its connection."""
    told = any(_header(head, name) for name in (b"content-length", b"transfer-encoding"))
    return told or not _has_body(head, request)


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return None


def _without(head: bytes, start: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(start))


def _answer(status: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
        % (status, len(body))
    ) + body
