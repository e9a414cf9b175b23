#!/usr/bin/env python3
"""LocalStack in one command: S3 and SQS on this machine, with Docker or without.

    make localstack
    localstack/start.py --port 5000 --without-docker

Starts it, waits until it works, makes the bucket and the queue `cloudray`, prints what to export,
and runs until Ctrl-C. What it held is gone then.

Needs nothing but Python 3.11. Without Docker it makes an environment in .bench/localstack, once,
for which it needs a Python 3.13 and PyPI.
"""
# ruff: noqa: S603, T201 - it starts programs and talks to a terminal

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TextIO
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "localstack" / "compose.yaml"
CACHE = ROOT / ".bench" / "localstack"

VERSION = "4.14.0"
#: Packages that are newer than this day break this version of it.
PACKAGES_OF = "2026-03-10"
REQUIREMENT = f"localstack-core[runtime]=={VERSION}"
#: The one Python that this version is known to work with.
PYTHON = (3, 13)

NAME = "cloudray"
REGION = "us-east-1"
#: LocalStack takes any.
KEY = "test"
DEFAULT_PORT = 4566

#: With Docker, an image may have to be downloaded first.
START_S, DOCKER_START_S = 120.0, 900.0
STOP_S = 20.0
REQUEST_S, HEALTH_S = 20.0, 5.0
LOOK_S = 0.2
EXIT_INTERRUPTED = 130


class CannotRunError(Exception):
    """Something that the user can mend; the message says how."""


def main() -> int:
    """Run LocalStack until told to stop; returns the exit status."""
    arguments = parse_arguments()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    if arguments.until_eof:
        threading.Thread(target=stop_at_eof, args=(stop,), daemon=True).start()
    try:
        return run(arguments.port, stop, without_docker=arguments.without_docker)
    except CannotRunError as error:
        print(f"localstack: {error}", file=sys.stderr)
        return 1


def stop_at_eof(stop: threading.Event) -> None:
    """Whoever started it holds the other end: when that is gone, however it went, it stops."""
    sys.stdin.read()
    stop.set()


def run(port: int, stop: threading.Event, *, without_docker: bool) -> int:
    """Start it, unless it runs already, and wait."""
    service = Service(port)
    if service.answers():
        service.prepare()
        say(f"LocalStack is running already on port {port}.", port)
        return 0
    if port_is_taken(port):
        raise CannotRunError(
            f"port {port} is taken by something that is not LocalStack; name another one: "
            f"make localstack LOCALSTACK_PORT={port + 1}"
        )
    if not without_docker and docker_answers():
        manner, runtime, limit_s = "in a container", in_container(port), DOCKER_START_S
    else:
        manner, runtime, limit_s = "without a container", as_process(port, stop), START_S
    with runtime as (process, log):
        await_answer(service, process, log, stop, time.monotonic() + limit_s)
        if stop.is_set():
            return EXIT_INTERRUPTED
        service.prepare()
        say(f"LocalStack {VERSION} is ready on port {port}, {manner}. Ctrl-C stops it.", port)
        while not stop.wait(LOOK_S):
            if process.poll() is not None:
                raise CannotRunError(f"it ended with exit status {process.returncode}; {tail(log)}")
    return 0


def say(first: str, port: int) -> None:
    """Print how to use it."""
    print(
        f"""{first}

In every terminal that uses it:

    export AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={KEY} AWS_DEFAULT_REGION={REGION}
    export AWS_ENDPOINT_URL=http://127.0.0.1:{port}

The cluster's address:   s3://{NAME}/demo   (any prefix is a cluster of its own)
The queue:               http://127.0.0.1:{port}/000000000000/{NAME}
""",
        flush=True,
    )


class Service:
    """LocalStack as its clients see it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def answers(self) -> bool:
        """Whether S3 and SQS are there."""
        try:
            status, body = self._request("GET", "/_localstack/health", timeout_s=HEALTH_S)
            services = json.loads(body)["services"] if status == HTTPStatus.OK else {}
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            return False
        return all(services.get(name) in {"available", "running"} for name in ("s3", "sqs"))

    def prepare(self) -> None:
        """Make bucket and queue, unless they are there, and see that both work."""
        self._expect("PUT", f"/{NAME}", statuses={200, 409})
        self._expect("PUT", f"/{NAME}/.started", b"it works")
        if self._expect("GET", f"/{NAME}/.started") != b"it works":
            raise CannotRunError("its S3 returned something else than was put there")
        self._expect("DELETE", f"/{NAME}/.started", statuses={204})
        for action in ("CreateQueue", "GetQueueUrl"):
            query = urlencode({"Action": action, "QueueName": NAME})
            self._expect("POST", "/", query.encode(), service="sqs")

    def _expect(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        statuses: frozenset[int] | set[int] = frozenset({200}),
        service: str = "s3",
    ) -> bytes:
        try:
            status, answer = self._request(method, path, body, service)
        except (OSError, HTTPException) as error:
            raise CannotRunError(f"{method} {path} of its {service} failed: {error}") from error
        if status not in statuses:
            raise CannotRunError(
                f"{method} {path} of its {service} gave {status}: {answer[:500]!r}"
            )
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        service: str = "s3",
        timeout_s: float = REQUEST_S,
    ) -> tuple[int, bytes]:
        # Which service is meant it reads from what would be the signature.
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/{REGION}/{service}"
            "/aws4_request, SignedHeaders=host, Signature=0",
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        }
        with contextlib.closing(
            HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        ) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def await_answer(
    service: Service,
    process: subprocess.Popen[bytes],
    log: Path,
    stop: threading.Event,
    deadline_s: float,
) -> None:
    """Wait until it answers, or somebody says stop."""
    while not stop.is_set() and not service.answers():
        if process.poll() is not None:
            raise CannotRunError(
                f"it did not start (exit status {process.returncode}); {tail(log)}"
            )
        if time.monotonic() > deadline_s:
            raise CannotRunError(f"it does not answer; {tail(log)}")
        stop.wait(LOOK_S)


@contextlib.contextmanager
def in_container(port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """LocalStack by Docker; the container and what it held go at the end."""
    compose = ["docker", "compose", "--file", str(COMPOSE)]
    environment = {**os.environ, "LOCALSTACK_PORT": str(port)}
    with temporary_folder() as folder:
        log = folder / "log"
        try:
            with running([*compose, "up"], log, environment) as process:
                yield process, log
        finally:
            subprocess.run(
                [*compose, "down", "--volumes", "--timeout", "10"],
                env=environment,
                capture_output=True,
                check=False,
            )


@contextlib.contextmanager
def as_process(port: int, stop: threading.Event) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """LocalStack as a plain process, which sees nothing of this project's environment."""
    python = environment_of_localstack(stop)
    with temporary_folder() as folder:
        log = folder / "log"
        hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {
            "FILESYSTEM_ROOT": str(folder),
            "TMPDIR": str(folder),
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{port}",
            "SQS_ENDPOINT_STRATEGY": "off",
            "SERVICES": "s3,sqs",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "LS_LOG": "warning",
        }
        # This folder is called like its package: it must not be seen.
        command = [str(python), "-P", str(ROOT / "localstack" / "serve.py")]
        with running(command, log, environment, folder) as process:
            yield process, log


@contextlib.contextmanager
def running(
    command: list[str], log: Path, environment: dict[str, str], cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process and whatever it starts, which all end with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us; we tell it in our own words.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes with all that is in it, even while somebody still writes there."""
    folder = Path(tempfile.mkdtemp(prefix="localstack-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment_of_localstack(stop: threading.Event) -> Path:
    """The interpreter of the environment that LocalStack runs in; made once."""
    recipe = f"{REQUIREMENT} {PACKAGES_OF} {PYTHON}"
    folder = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    python, done = folder / "bin" / "python", folder / ".installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Whoever comes second finds it made.
        while not acquired(lock):
            if stop.wait(LOOK_S):
                raise CannotRunError("interrupted")
        if done.exists():
            return python
        print(f"Installing LocalStack {VERSION} into {folder.relative_to(ROOT)} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        uv = find_uv(stop)
        execute([uv, "venv", "--quiet", "--python", find_python(uv), str(folder)], stop)
        as_of = ["--exclude-newer", PACKAGES_OF]
        install = [uv, "pip", "install", "--quiet", "--python", str(python), *as_of]
        execute([*install, REQUIREMENT], stop)
        done.touch()
    return python


def acquired(lock: TextIO) -> bool:
    """Whether the lock on this file is ours now."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def find_uv(stop: threading.Event) -> str:
    """The installer that can resolve as of a day: the user's, or one of our own from PyPI."""
    found = shutil.which("uv")
    if found and works(found):
        return found
    folder = CACHE / "uv"
    if not works(str(folder / "bin" / "uv")):
        execute([sys.executable, "-m", "venv", str(folder)], stop)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        execute([*pip, "install", "--quiet", "uv>=0.5"], stop)
    return str(folder / "bin" / "uv")


def works(program: str) -> bool:
    """Whether a program is there, and more than a shim of something that is not."""
    with contextlib.suppress(OSError):
        done = subprocess.run([program, "--version"], capture_output=True, check=False)
        return done.returncode == 0
    return False


def find_python(uv: str) -> str:
    """A Python of the right version: on the PATH, of pyenv, known to uv, or fetched by it."""
    name = ".".join(map(str, PYTHON))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [sys.executable, shutil.which(f"python{name}") or ""]
    candidates += map(str, sorted(pyenv.glob(f"versions/{name}.*/bin/python3"), reverse=True))
    for candidate in candidates:
        if candidate and version_of(candidate) == PYTHON:
            return candidate
    where = ["--install-dir", str(CACHE / "pythons")]
    for arguments in (["find", name], ["install", "--quiet", *where, name]):
        done = subprocess.run([uv, "python", *arguments], capture_output=True, check=False)
        if done.returncode == 0 and arguments[0] == "find":
            return done.stdout.decode().strip()
    found = sorted((CACHE / "pythons").glob(f"cpython-{name}*/bin/python3"))
    if found:
        return str(found[0])
    raise CannotRunError(
        f"LocalStack needs Python {name} when there is no Docker, and none was found: not as "
        f"python{name} on the PATH, not in {pyenv}, and uv can fetch none. Install one (e.g. "
        f"`pyenv install {name}` or `uv python install {name}`), or start Docker."
    )


def version_of(interpreter: str) -> tuple[int, ...] | None:
    """Its version; None when it does not work (a shim without a version behind it, say)."""
    question = "import sys; print(*sys.version_info[:2])"
    asked = subprocess.run([interpreter, "-c", question], capture_output=True, check=False)
    return tuple(map(int, asked.stdout.split())) if asked.returncode == 0 else None


def execute(command: list[str], stop: threading.Event) -> None:
    """Run a program to its good end, unless somebody says stop."""
    with temporary_folder() as folder, running(command, folder / "log", {**os.environ}) as process:
        while process.poll() is None:
            if stop.wait(LOOK_S):
                raise CannotRunError("interrupted")
        if process.returncode != 0:
            raise CannotRunError(f"`{' '.join(command)}` failed; {tail(folder / 'log')}")


def docker_answers() -> bool:
    """Whether there is a daemon, and the command that starts compose files."""
    if shutil.which("docker") is None:
        return False
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0:
            return False
    return True


def port_is_taken(port: int) -> bool:
    """Whether somebody else listens there."""
    try:
        with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.connect()
    except OSError:
        return False
    return True


def tail(log: Path) -> str:
    """The end of what a program said."""
    lines = log.read_text(errors="replace").rstrip().splitlines() if log.exists() else []
    return "it said:\n" + "\n".join(lines[-30:]) if lines else "it said nothing"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="where it listens (default: %(default)s)"
    )
    parser.add_argument(
        "--without-docker", action="store_true", help="start no container even if Docker is there"
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="stop also when the standard input ends"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
