"""A service on the loopback that answers requests from a script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

#: In place of an answer: the connection is closed when the request has been read.
DROP = None


class Answer(NamedTuple):
    status: int
    body: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Service:
    """What it is asked, and what it will answer."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer | None] = []
        self.endpoint = ""

    def will(self, *answers: Answer | None) -> None:
        """Answer the next requests so; the last answer is repeated."""
        self.answers[:] = answers
        self.requests.clear()

    @property
    def asked(self) -> list[str]:
        return [request.method for request in self.requests]


def error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>in words</Message></Error>")


@contextmanager
def serve() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per answer, sent at once
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            service.requests.append(Request(self.command, self.path, headers, body))
            answer = service.answers[0]
            if len(service.answers) > 1:
                del service.answers[0]
            if answer is DROP:
                self.close_connection = True
                return
            self.send_response(answer.status)
            body = answer.body.encode()
            standard = {
                "Content-Length": str(len(body)),
                "ETag": '"etag"',
                "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
            }
            for name, value in (standard | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.endpoint = f"http://127.0.0.1:{server.server_port}"
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
