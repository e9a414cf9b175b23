"""S3 on this machine, for tests: LocalStack, Ceph's radosgw and moto, each a process of its own.

Each serves until the standard input that we hold ends: so it goes with us, however we go.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import pytest

from tests import radosgw

ROOT = Path(__file__).parents[1]
BUCKET = "cloudray"
#: What every one of them takes.
CREDENTIALS: Mapping[str, str] = MappingProxyType(
    {
        "AWS_ACCESS_KEY_ID": radosgw.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": radosgw.SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
)
#: A port that was free may be taken when the server comes to it.
_TRIES = 3


class Server(NamedTuple):
    """A running S3, with a bucket in it."""

    #: ``localstack``, ``radosgw`` or ``moto``
    name: str
    port: int

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, prefix: str, *, port: int | None = None) -> str:
        """The URL of a place in the bucket, by way of another port perhaps."""
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}"
        return f"s3://{BUCKET}/{prefix}?endpoint={endpoint}&region=us-east-1"


class CannotStartError(Exception):
    """This machine lacks what the server needs; the message says what."""


@contextmanager
def localstack() -> Iterator[Server]:
    """LocalStack without a container."""
    start = ROOT / "localstack" / "start.py"
    for attempt in range(1, _TRIES + 1):
        port = free_port()
        command = [
            sys.executable,
            str(start),
            "--without-docker",
            "--until-eof",
            "--port",
            str(port),
        ]
        with _program(command) as (output, said):
            # It says other things first when it makes its environment.
            ready = any(line.startswith("LocalStack") for line in output)
            if ready:
                yield Server("localstack", port)
                return
        if "is taken by something" not in said() or attempt == _TRIES:
            raise CannotStartError(said())


@contextmanager
def ceph() -> Iterator[Server]:
    """Ceph's gateway, with its monitor and one OSD."""
    absent = radosgw.missing()
    if absent:
        raise CannotStartError(
            "Ceph's radosgw is not installed: apt install radosgw ceph-mon ceph-osd"
        )
    with _program([sys.executable, "-m", "tests.radosgw"]) as (output, said):
        line = output.readline()
        if not line:
            raise CannotStartError(said())
        server = Server("radosgw", int(line))
        _make_bucket(server)
        yield server


@contextmanager
def moto() -> Iterator[Server]:
    """moto, one request at a time."""
    script = ROOT / "tests" / "contract" / "moto_server.py"
    with _program([sys.executable, str(script)]) as (output, _):
        server = Server("moto", int(output.readline()))
        _make_bucket(server)
        yield server


START: Mapping[str, Callable[[], AbstractContextManager[Server]]] = MappingProxyType(
    {"localstack": localstack, "radosgw": ceph, "moto": moto}
)


@contextmanager
def started(name: str) -> Iterator[Server]:
    """A server for a test session; where it cannot run, its tests are skipped."""
    manager = START[name]()
    try:
        server = manager.__enter__()
    except CannotStartError as error:
        pytest.skip(f"{name} cannot run here: {' '.join(str(error).split())}")
    try:
        yield server
    finally:
        manager.__exit__(None, None, None)


@contextmanager
def _program(
    command: list[str],
) -> Iterator[tuple[IO[str], Callable[[], str]]]:
    """Start a server; yields its output, and what it has said to its standard error."""
    with tempfile.TemporaryFile("w+") as errors:

        def said() -> str:
            process.wait()
            errors.seek(0)
            return errors.read().strip()

        with subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **CREDENTIALS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # A Ctrl-C at the terminal is ours.
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            try:
                yield process.stdout, said
            finally:
                process.stdin.close()


def _make_bucket(server: Server) -> None:
    boto3: Any = import_module("boto3")  # which has no types, and takes its time
    session = boto3.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )
    client = session.client("s3", endpoint_url=server.endpoint)
    client.create_bucket(Bucket=BUCKET)
    client.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
