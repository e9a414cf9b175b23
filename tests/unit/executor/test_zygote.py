from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pytest

from cloudray.agent.starters import FreshStarter, ZygoteStarter
from cloudray.executor.zygote import request_start
from cloudray.protocol import messages as m
from cloudray.protocol.messages import Message, Unpacker, pack
from cloudray.protocol.records import Shape, Verb
from cloudray.store.room import RoomSpec
from cloudray.values.codec import loads
from tests.unit.agent.bench import JOB
from tests.unit.protocol.builders import BATCH_ID

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has zygotes")

ROOT = Path(__file__).parents[3]
#: No test waits so long, unless what it waits for never happens.
LIMIT_S = 60.0


class Line:
    """The agent's end of the connection to an executor."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(LIMIT_S)
        self.connection = connection
        self._unpacker = Unpacker()
        self._messages: list[Message] = []
        ready = self.hear()
        assert isinstance(ready, m.Ready)
        self.token, self.pid = ready.token, ready.pid

    def hear(self) -> Message:
        while not self._messages:
            data = self.connection.recv(1 << 16)
            assert data, "the executor has ended"
            self._messages = self._unpacker.feed(data)
        return self._messages.pop(0)

    def call(self, function: Callable[[], Any]) -> Any:
        """Let the executor call a function; returns what that returned."""
        setup = m.Setup(JOB, 7, "node", RoomSpec("/nowhere"), "")
        learn = m.Learn(0, Shape("f" * 64, "f", 1, {}), cloudpickle.dumps(function))
        run = m.Run((m.Call(1, 0, BATCH_ID + b"\0\0", 1, 0, 0),))
        self.connection.sendall(pack(setup) + pack(learn) + pack(run))
        outcomes = self.hear()
        assert isinstance(outcomes, m.Outcomes)
        (outcome,) = outcomes.outcomes
        value = loads(outcome.values[0])
        assert outcome.verb == Verb.DONE, value
        return value

    def has_ended(self) -> bool:
        """Wait for the end of the connection."""
        return self.connection.recv(1 << 16) == b""


class Agent:
    """An agent's side of a zygote, that of a process of its own which forked it."""

    def __init__(self, folder: Path, *preload: str) -> None:
        self.folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(LIMIT_S)
        self.socket_path = str(folder / "agent.sock")
        self._listener.bind(self.socket_path)
        self._listener.listen()
        self._lines: dict[str, Line] = {}
        channel, theirs = socket.socketpair()
        with channel, theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.unit.executor.forking",
                    self.socket_path,
                    str(folder),
                    str(theirs.fileno()),
                    *preload,
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            said, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 3)
        control, *self._pipes = descriptors
        self.control = socket.socket(fileno=control)
        self.control.settimeout(LIMIT_S)
        facts = json.loads(said)
        self.zygote: int = facts["zygote"]
        self.token: str = facts["token"]
        answer = self.answer()
        assert answer["token"] == self.token
        self.first_pid = answer["pid"]

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.msgpack.decode(self.control.recv(1 << 16))
        return answer

    def line(self, token: str = "") -> Line:
        """The connection of the executor with a token: by default of the first one."""
        token = token or self.token
        while token not in self._lines:
            connection, _ = self._listener.accept()
            line = Line(connection)
            self._lines[line.token] = line
        return self._lines[token]

    def fork(self, **env: str) -> Line:
        """Ask the zygote for another executor."""
        request, output = request_start(self.folder, env)
        socket.send_fds(self.control, [msgspec.msgpack.encode(request)], list(output.write))
        for descriptor in output.write:
            os.close(descriptor)
        self._pipes += output.read
        line = self.line(request.token)
        assert self.answer() == {"token": request.token, "pid": line.pid}
        return line

    def close(self) -> None:
        self.control.close()
        for line in self._lines.values():
            line.connection.close()
        self._listener.close()
        self.process.kill()
        self.process.communicate()
        for descriptor in self._pipes:
            os.close(descriptor)


Fork = Callable[..., Agent]


@pytest.fixture
def fork_zygote(tmp_path: Path) -> Iterator[Fork]:
    made: list[Agent] = []

    def fork(*preload: str) -> Agent:
        made.append(Agent(tmp_path, *preload))
        return made[-1]

    yield fork
    for agent in made:
        agent.close()


@pytest.fixture
def agent(fork_zygote: Fork) -> Agent:
    return fork_zygote()


def parent_of(pid: int) -> int:
    # The name, in brackets, may hold anything.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def open_files(pid: int) -> set[str]:
    return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def has_ended(pid: int) -> Callable[[], bool]:
    """What waits for the end of a process, whose number may be another's afterwards."""
    descriptor = os.pidfd_open(pid)

    def wait() -> bool:
        ready, _, _ = select.select([descriptor], [], [], LIMIT_S)
        os.close(descriptor)
        return bool(ready)

    return wait


# -- forking -------------------------------------------------------------------------------


def test_executors_are_children_of_the_zygote(agent: Agent) -> None:
    first, second = agent.line(), agent.fork()
    assert first.pid == agent.first_pid
    assert parent_of(agent.zygote) == agent.process.pid
    assert [parent_of(line.pid) for line in (first, second)] == [agent.zygote] * 2
    assert name_of(agent.zygote) == "cloudray-zygote"
    assert {name_of(line.pid) for line in (first, second)} == {"cloudray-exec"}


def test_an_executor_leads_a_process_group_of_its_own(agent: Agent) -> None:
    line = agent.line()
    assert os.getpgid(line.pid) == line.pid
    assert os.getsid(line.pid) == line.pid


def test_an_executor_inherits_no_descriptors(agent: Agent) -> None:
    first, second = agent.line(), agent.fork()
    of_zygote = open_files(agent.zygote)
    for line in (first, second):
        files = open_files(line.pid)
        assert not [name for name in files if name.endswith("kept-by-the-agent")]
        assert not [name for name in files & of_zygote if name.startswith(("socket", "pipe"))]
    assert not open_files(first.pid) & open_files(second.pid) - {"/dev/null"}


def test_user_code_finds_an_executor_as_if_it_were_started_afresh(agent: Agent) -> None:
    def look() -> tuple[list[str], str, dict[str, Any], str]:
        import os
        import sys

        main = vars(sys.modules["__main__"])
        own = {name: value for name, value in main.items() if not name.startswith("__")}
        return sys.argv, sys.modules["__main__"].__name__, own, os.readlink("/dev/fd/0")  # noqa: PTH115

    assert agent.fork().call(look) == (["cloudray.executor"], "__main__", {}, "/dev/null")


def test_environment_variables_are_there(agent: Agent) -> None:
    def look() -> str | None:
        import os

        return os.environ.get("COLOUR")

    assert agent.fork(COLOUR="green").call(look) == "green"
    assert agent.fork().call(look) is None


def test_variables_that_are_read_at_the_start_get_a_fresh_interpreter(agent: Agent) -> None:
    def look() -> list[str]:
        import sys

        return sys.orig_argv

    line = agent.fork(TZ="Asia/Tokyo")
    assert parent_of(line.pid) == agent.zygote
    assert "cloudray.executor" in line.call(look)


def test_modules_are_loaded_ahead_for_all_but_the_first(fork_zygote: Fork) -> None:
    def look() -> bool:
        import sys

        return "colorsys" in sys.modules

    agent = fork_zygote("colorsys")
    assert agent.fork().call(look)


def test_executors_that_are_forked_draw_random_numbers_of_their_own(fork_zygote: Fork) -> None:
    def draw() -> tuple[int, int]:
        import random

        import numpy as np

        return random.getrandbits(60), int(np.random.randint(1 << 60))  # noqa: NPY002 - meant

    agent = fork_zygote("random", "numpy.random")
    drawn = [agent.fork().call(draw) for _ in range(8)]
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 8


# -- ending --------------------------------------------------------------------------------


def test_the_zygote_says_how_an_executor_ended(agent: Agent) -> None:
    line = agent.line()
    os.kill(line.pid, signal.SIGKILL)
    assert line.has_ended()
    agent.control.send(msgspec.msgpack.encode({"reap": line.pid}))
    assert agent.answer() == {"pid": line.pid, "status": -9}


def test_an_executor_that_has_ended_keeps_its_number_until_its_agent_asks(agent: Agent) -> None:
    line = agent.line()
    ended = has_ended(line.pid)
    os.kill(line.pid, signal.SIGKILL)
    assert ended()
    assert state_of(line.pid) == "Z"
    agent.control.send(msgspec.msgpack.encode({"reap": line.pid}))
    agent.answer()
    assert not Path(f"/proc/{line.pid}").exists()


def test_executors_die_with_their_zygote(agent: Agent) -> None:
    lines = [agent.line(), agent.fork()]
    ended = [has_ended(line.pid) for line in lines]
    os.kill(agent.zygote, signal.SIGKILL)
    assert [wait() for wait in ended] == [True, True]


def start_sleeper() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "600"]).pid  # noqa: S607 - as a task would


def test_a_zygote_dies_with_its_agent_and_so_does_what_executors_have_started(agent: Agent) -> None:
    line = agent.line()
    sleeper = line.call(start_sleeper)
    ended = [has_ended(pid) for pid in (agent.zygote, line.pid, sleeper)]
    agent.control.close()  # this copy of what only the agent has
    agent.process.kill()
    assert [wait() for wait in ended] == [True, True, True]


def start_daemons() -> tuple[int, int]:
    """A daemon that has left group, session and parent, and what that has started in turn."""
    import os
    import subprocess
    import time

    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
            os.write(writing, f"{os.getpid()} {child.pid}".encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    daemon, child_pid = os.read(reading, 100).split()
    return int(daemon), int(child_pid)


def test_daemons_end_with_the_zygote(agent: Agent) -> None:
    line = agent.line()
    daemon, child = line.call(start_daemons)
    assert parent_of(daemon) == agent.zygote
    assert parent_of(child) == daemon
    ended = [has_ended(pid) for pid in (daemon, child)]
    line.connection.shutdown(socket.SHUT_RDWR)
    agent.control.close()
    assert [wait() for wait in ended] == [True, True]


def start_short_daemon() -> int:
    import os

    reading, writing = os.pipe()
    if not os.fork():
        if not os.fork():
            os.write(writing, str(os.getpid()).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reading, 100))


def test_a_daemon_that_has_ended_leaves_no_zombie(agent: Agent) -> None:
    daemon = agent.line().call(start_short_daemon)
    while Path(f"/proc/{daemon}").exists():
        # The zygote looks when it is asked for something.
        agent.fork()


def test_a_zygote_ends_when_its_agent_hangs_up(agent: Agent) -> None:
    line = agent.line()
    ended = has_ended(agent.zygote)
    line.connection.shutdown(socket.SHUT_RDWR)
    agent.control.close()
    assert ended()


def test_when_the_zygote_has_died_executors_are_fresh_interpreters(agent: Agent) -> None:
    agent.line()
    ended = has_ended(agent.zygote)
    os.kill(agent.zygote, signal.SIGKILL)
    assert ended()

    async def start() -> tuple[int, int]:
        starter = ZygoteStarter(agent.control, FreshStarter(agent.socket_path))
        request, output = request_start(agent.folder, {"PYTHONPATH": str(ROOT)})
        pids: list[int] = []
        starter.start(request, output.write, pids.append)
        line = await asyncio.to_thread(agent.line, request.token)
        parent = parent_of(line.pid)
        assert [line.pid] == pids
        os.kill(line.pid, signal.SIGKILL)
        statuses: list[int] = []
        starter.reap(line.pid, statuses.append)
        starter.close()
        for descriptor in output.read:
            os.close(descriptor)
        return parent, statuses[0]

    assert asyncio.run(start()) == (os.getpid(), -9)
