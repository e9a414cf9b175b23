"""A cluster in a bucket of a local S3, with one agent that has no other store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest

from cloudray.protocol.joining import join
from cloudray.store import Reliable, drive, open_store
from cloudray.timing import Timing
from tests.integration.programs import ROOT

_SERVER = ROOT / "tests" / "contract" / "moto_server.py"
_TIMING = Timing(heartbeat_s=0.3, lease_s=2.0, commit_s=0.1, scan_s=0.5)


@contextmanager
def cluster_in_bucket(folder: Path, *options: str) -> Iterator[str]:
    """Start S3 and an agent with these options; yields the cluster's address.

    The agent's sockets lie in `folder`.
    """
    with bucket() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        address = url.replace("//bucket?", "//bucket/cluster?")
        store = Reliable(open_store(address))
        try:
            drive(store, join(address, _TIMING))
        finally:
            store.close()
        agent = subprocess.Popen([sys.executable, "-m", "cloudray.agent", address, *options])
        try:
            yield address
        finally:
            agent.terminate()
            assert agent.wait(60) == 0


@contextmanager
def bucket() -> Iterator[str]:
    """Start S3 in a process of its own; yields the URL of an empty bucket."""
    with subprocess.Popen(
        [sys.executable, _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        with closing(HTTPConnection(address, timeout=30)) as connection:
            connection.request("PUT", "/bucket")
            assert connection.getresponse().status == HTTPStatus.OK
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            yield f"s3://bucket?endpoint=http://{address}&region=us-east-1"
        assert server.stdin is not None
        server.stdin.close()
