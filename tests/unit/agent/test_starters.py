from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cloudray.agent.starters import FreshStarter, ZygoteStarter
from cloudray.executor.zygote import StartRequest, needs_fresh_interpreter, request_start


class Fresh(FreshStarter):
    """Starts nothing, and remembers what it should have started."""

    def __init__(self) -> None:
        super().__init__("/run/agent.sock")
        self.started: list[str] = []
        self.reaped: list[int] = []

    def start(
        self, request: StartRequest, output: tuple[int, int], on_pid: Callable[[int], None]
    ) -> None:
        self.started.append(request.token)
        for descriptor in output:
            os.close(descriptor)
        on_pid(1)

    def has(self, pid: int) -> bool:
        return pid == 1

    def reap(self, pid: int, on_status: Callable[[int], None]) -> None:
        self.reaped.append(pid)
        on_status(3)


class Zygote:
    """The zygote's end of the control socket, played by the test."""

    def __init__(self, control: socket.socket, agents_end: socket.socket) -> None:
        self.control = control
        self.agents_end = agents_end
        self.received: list[dict[str, object]] = []
        self.output: list[int] = []

    def hear(self) -> dict[str, object]:
        body, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 2)
        self.output += descriptors
        message: dict[str, object] = msgspec.msgpack.decode(body)
        return message

    def say(self, **answer: object) -> None:
        self.control.send(msgspec.msgpack.encode(answer))

    def close(self) -> None:
        self.control.close()
        for descriptor in self.output:
            os.close(descriptor)
        self.output = []


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    agents_end, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agents_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    zygote = Zygote(control, agents_end)
    yield zygote
    zygote.close()
    agents_end.close()


@pytest.fixture
def fresh() -> Fresh:
    return Fresh()


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., tuple[StartRequest, tuple[int, int]]]]:
    """Make requests with their pipes, of which the agent's ends are closed at the end."""
    kept: list[int] = []

    def ask(**env: str) -> tuple[StartRequest, tuple[int, int]]:
        request, output = request_start(tmp_path, env)
        kept.extend(output.read)
        return request, output.write

    yield ask
    for descriptor in kept:
        os.close(descriptor)


Ask = Callable[..., tuple[StartRequest, tuple[int, int]]]


def is_open(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


# -- what a fork can do --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["PYTHONPATH", "PYTHONHASHSEED", "LD_PRELOAD", "LC_ALL", "TZ", "TMPDIR"]
)
def test_what_is_read_only_at_the_start_needs_a_fresh_interpreter(name: str) -> None:
    assert needs_fresh_interpreter({"A": "1", name: "x"})


@pytest.mark.parametrize("env", [{}, {"A": "1", "OMP_NUM_THREADS": "2", "MY_PYTHON": "x"}])
def test_anything_else_does_not(env: dict[str, str]) -> None:
    assert not needs_fresh_interpreter(env)


def test_a_request_comes_with_a_progress_file_and_pipes(tmp_path: Path) -> None:
    request, output = request_start(tmp_path, {"A": "1"})
    other, other_output = request_start(tmp_path, {})
    assert request.env == {"A": "1"}
    assert Path(request.progress).read_bytes() == bytes(os.sysconf("SC_PAGE_SIZE"))
    assert request.token != other.token
    for read, write in zip(output.read, output.write, strict=True):
        os.write(write, b"printed")
        assert os.read(read, 100) == b"printed"
    for descriptor in (*output.read, *output.write, *other_output.read, *other_output.write):
        os.close(descriptor)


# -- asking the zygote ---------------------------------------------------------------------


async def test_the_zygote_is_asked_with_the_pipes(zygote: Zygote, fresh: Fresh, ask: Ask) -> None:
    pids: list[int] = []
    starter = ZygoteStarter(zygote.agents_end, fresh)
    request, output = ask(A="1")
    starter.start(request, output, pids.append)
    assert [is_open(descriptor) for descriptor in output] == [False, False]
    assert zygote.hear() == {
        "token": request.token,
        "progress": request.progress,
        "env": {"A": "1"},
    }
    assert len(zygote.output) == 2
    zygote.say(token=request.token, pid=42)
    await asyncio.sleep(0.001)
    assert pids == [42]
    starter.close()


async def test_answers_find_who_asked(zygote: Zygote, fresh: Fresh, ask: Ask) -> None:
    said: list[tuple[str, int]] = []
    starter = ZygoteStarter(zygote.agents_end, fresh)
    first, second = ask(), ask()
    starter.start(*first, lambda pid: said.append(("first", pid)))
    starter.start(*second, lambda pid: said.append(("second", pid)))
    starter.reap(7, lambda status: said.append(("reaped", status)))
    zygote.say(pid=7, status=-11)
    zygote.say(token=second[0].token, pid=42)
    zygote.say(token=first[0].token, pid=43)
    await asyncio.sleep(0.001)
    assert said == [("reaped", -11), ("second", 42), ("first", 43)]
    starter.close()


async def test_one_that_was_started_with_the_zygote_is_expected(
    zygote: Zygote, fresh: Fresh, ask: Ask
) -> None:
    pids: list[int] = []
    starter = ZygoteStarter(zygote.agents_end, fresh)
    request, output = ask()
    starter.expect(request.token, pids.append)
    zygote.say(token=request.token, pid=42)
    await asyncio.sleep(0.001)
    assert pids == [42]
    starter.close()
    for descriptor in output:
        os.close(descriptor)


async def test_who_was_started_fresh_is_reaped_there(zygote: Zygote, fresh: Fresh) -> None:
    statuses: list[int] = []
    starter = ZygoteStarter(zygote.agents_end, fresh)
    starter.reap(1, statuses.append)
    assert (fresh.reaped, statuses) == ([1], [3])
    starter.close()


async def test_a_zygote_that_does_not_listen_is_not_waited_for(
    zygote: Zygote, fresh: Fresh, ask: Ask
) -> None:
    starter = ZygoteStarter(zygote.agents_end, fresh)
    while not fresh.started:
        starter.start(*ask(), lambda _: None)
    starter.close()
    while len(zygote.output) < 2:
        zygote.hear()


# -- the death of the zygote ---------------------------------------------------------------


async def test_when_the_zygote_dies_fresh_interpreters_are_started(
    zygote: Zygote, fresh: Fresh, ask: Ask
) -> None:
    starter = ZygoteStarter(zygote.agents_end, fresh)
    zygote.close()
    await asyncio.sleep(0.001)
    request, output = ask()
    starter.start(request, output, lambda _: None)
    assert fresh.started == [request.token]


async def test_a_death_that_was_not_noticed_yet_is_no_error(
    zygote: Zygote, fresh: Fresh, ask: Ask
) -> None:
    starter = ZygoteStarter(zygote.agents_end, fresh)
    zygote.close()
    request, output = ask()
    starter.start(request, output, lambda _: None)
    assert fresh.started == [request.token]
    statuses: list[int] = []
    starter.reap(42, statuses.append)
    await asyncio.sleep(0.001)
    assert statuses == [-9]


async def test_who_waits_for_an_answer_of_a_dead_zygote_gets_one(
    zygote: Zygote, fresh: Fresh, ask: Ask
) -> None:
    pids: list[int] = []
    statuses: list[int] = []
    starter = ZygoteStarter(zygote.agents_end, fresh)
    starter.start(*ask(), pids.append)
    starter.reap(42, statuses.append)
    zygote.close()
    await asyncio.sleep(0.001)
    assert (pids, statuses) == ([0], [-9])


async def test_what_a_dead_zygote_forked_is_reaped_as_killed(zygote: Zygote, fresh: Fresh) -> None:
    starter = ZygoteStarter(zygote.agents_end, fresh)
    zygote.close()
    await asyncio.sleep(0.001)
    statuses: list[int] = []
    starter.reap(42, statuses.append)
    assert statuses == [-9]


async def test_hanging_up_twice_is_no_error(zygote: Zygote, fresh: Fresh) -> None:
    starter = ZygoteStarter(zygote.agents_end, fresh)
    starter.close()
    starter.close()
    assert zygote.control.recv(10) == b""
