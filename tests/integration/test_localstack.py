"""`make localstack`, and a first program on two workers there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests import servers
from tests.integration.programs import ROOT
from tests.integration.test_examples import SUM_BELOW_10_000
from tests.servers import Server
from tests.unit.store.http_service import Answer, serve

START = [sys.executable, str(ROOT / "localstack" / "start.py"), "--without-docker"]


def start(port: int) -> subprocess.CompletedProcess[str]:
    """Start it where it cannot stay."""
    return subprocess.run(
        [*START, "--port", str(port)], capture_output=True, check=False, text=True, timeout=60
    )


def exports(text: str) -> dict[str, str]:
    """What it tells users to export."""
    lines = re.findall(r"^ +export (.+)$", text, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[None]:
    """A worker as the README has it."""
    command = [sys.executable, "-m", "cloudray", "worker", "s3://cloudray/demo", "--num-cpus=1"]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            yield
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_second_start_says_that_it_is_running(localstack: Server) -> None:
    done = start(localstack.port)
    assert done.returncode == 0
    assert f"is running already on port {localstack.port}." in done.stdout
    assert exports(done.stdout)["AWS_ENDPOINT_URL"] == localstack.endpoint


def test_a_port_that_is_taken_is_named() -> None:
    with serve() as service:
        service.will(Answer(404))
        port = int(service.endpoint.rpartition(":")[2])
        done = start(port)
    assert done.returncode == 1
    assert f"port {port} is taken by something that is not LocalStack" in done.stderr
    assert f"LOCALSTACK_PORT={port + 1}" in done.stderr


@pytest.mark.usefixtures("localstack")  # or its environment may have to be made first
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    port = servers.free_port()
    with subprocess.Popen(
        [*START, "--port", str(port)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        # It says so when it works.
        assert process.stdout.readline().startswith(f"LocalStack 4.14.0 is ready on port {port}")
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert family
    assert not [one for one in family if one.is_running()]
    assert list(tmp_path.iterdir()) == []


def test_the_example_gives_the_right_sums_on_two_workers(localstack: Server) -> None:
    told = exports(start(localstack.port).stdout)
    environment = {**os.environ, **told, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    with worker(environment), worker(environment):
        program = [sys.executable, "examples/sum_primes.py", "--limit", "10_000"]
        done = subprocess.run(
            [*program, "--address", "s3://cloudray/demo"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert "same results" in done.stdout
    assert done.stdout.count(SUM_BELOW_10_000) == 2
