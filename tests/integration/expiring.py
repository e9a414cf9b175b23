"""In front of a local S3: passes requests on, or says that the credentials have expired."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_REFUSAL = b"<Error><Code>ExpiredToken</Code><Message>in words</Message></Error>"
#: Headers of one connection, not of what travels.
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Gate:
    """Whether credentials are good now."""

    expired = False
    port = 0


@contextmanager
def gate_before(port: int) -> Iterator[Gate]:
    """Serve on another port what is served on `port` of this machine."""
    gate = Gate()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if gate.expired:
                self._answer(400, {}, _REFUSAL)
                return
            with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                self._answer(answer.status, dict(answer.getheaders()), answer.read())

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            length = len(body) if self.command != "HEAD" else headers.get("Content-Length", 0)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.handle_request)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        gate.port = server.server_port
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield gate
        finally:
            server.shutdown()
            thread.join()
