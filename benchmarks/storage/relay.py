"""A relay in front of an S3 that counts the requests which pass, by method."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import Self

_HEAD_BYTES = 1 << 16


class Relay:
    """Listens on a port of its own; a context manager."""

    def __init__(self, port: int) -> None:
        """Relay to this port of this machine."""
        self._target = port
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def take(self) -> Counter[str]:
        """What has passed since the last call, by method; a LIST is a GET with a query."""
        counts, self._counts = self._counts, Counter()
        return counts

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=_HEAD_BYTES, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            server, request = await asyncio.open_connection("127.0.0.1", self._target)
            back = asyncio.create_task(_copy(server, answer))
            try:
                await self._requests(client, request)
            finally:
                request.close()
                await back
        answer.close()

    async def _requests(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass requests on, one after the other, and count them."""
        while True:
            head = await client.readuntil(b"\r\n\r\n")
            line, *fields = head.split(b"\r\n")
            method, path, _ = line.decode("latin-1").split(" ", 2)
            headers = {
                name.lower(): value for name, _, value in (f.partition(b":") for f in fields)
            }
            self._counts["LIST" if method == "GET" and "list-type" in path else method] += 1
            server.write(head)
            left = int(headers.get(b"content-length", b"0"))
            while left:
                part = await client.read(min(left, _HEAD_BYTES))
                if not part:
                    return
                left -= len(part)
                server.write(part)
                await server.drain()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await source.read(_HEAD_BYTES):
            target.write(part)
            await target.drain()
    target.close()
