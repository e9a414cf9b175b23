from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudray.driver.peers import Peer, Peers
from cloudray.protocol import messages as m
from cloudray.protocol.messages import Message, Unpacker, pack

JOB = b"job......."
LIMIT_S = 60.0
#: More than a socket takes in while nobody reads at its other end.
LARGE = m.Blob("digest", bytes(4 << 20))


class Agent:
    """An agent as far as its socket goes: it listens when the test says so."""

    def __init__(self, path: Path, backlog: int = 8) -> None:
        self.address = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(LIMIT_S)
        self._listener.bind(self.address)
        self._listener.listen(backlog)
        self._connection: socket.socket | None = None
        self._unpacker = Unpacker()
        self._heard: list[Message] = []

    @property
    def connection(self) -> socket.socket:
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(LIMIT_S)
        return self._connection

    def hear(self) -> Message:
        while not self._heard:
            self._heard = self._unpacker.feed(self.connection.recv(1 << 20))
        return self._heard.pop(0)

    def say(self, *messages: Message) -> None:
        self.connection.sendall(b"".join(pack(message) for message in messages))

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


@pytest.fixture
def lost() -> list[Peer]:
    return []


@pytest.fixture
def peers(lost: list[Peer]) -> Iterator[Peers]:
    peers = Peers(JOB, want_logs=True, on_lost=lost.append)
    yield peers
    peers.close()


Make = Callable[..., Agent]


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Make]:
    made: list[Agent] = []

    def make(backlog: int = 8) -> Agent:
        made.append(Agent(tmp_path / f"agent-{len(made)}.sock", backlog))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


@pytest.fixture
def agent(make_agent: Make) -> Agent:
    return make_agent()


def test_an_agent_is_told_who_connects(peers: Peers, agent: Agent) -> None:
    assert peers.connect(agent.address) is not None
    assert agent.hear() == m.Attach(JOB, want_logs=True)
    assert peers.addresses() == {agent.address}


def test_an_address_where_nobody_listens_is_no_peer(peers: Peers, tmp_path: Path) -> None:
    assert peers.connect(str(tmp_path / "nobody.sock")) is None
    assert len(peers) == 0


def test_a_hint_goes_to_every_agent(peers: Peers, make_agent: Make) -> None:
    agents = [make_agent(), make_agent()]
    for agent in agents:
        peers.connect(agent.address)
    peers.send(m.Look((b"batch",)))
    for agent in agents:
        assert [agent.hear(), agent.hear()][1] == m.Look((b"batch",))


def test_what_agents_say_is_heard_with_who_said_it(peers: Peers, make_agent: Make) -> None:
    for name in ("one", "other"):
        agent = make_agent()
        peers.connect(agent.address)
        agent.say(m.Greeting(name, {}))
    said = [*peers.wait(LIMIT_S)]
    while len(said) < 2:
        said += peers.wait(LIMIT_S)
    assert {message.agent for _, message in said if isinstance(message, m.Greeting)} == {
        "one",
        "other",
    }
    assert {peer.address for peer, _ in said} == peers.addresses()


def test_without_news_the_wait_ends_with_its_time(peers: Peers, agent: Agent) -> None:
    peers.connect(agent.address)
    assert peers.wait(0.0) == []


def test_a_thread_that_waits_can_be_woken(peers: Peers) -> None:
    thread = threading.Thread(target=peers.wait, args=(LIMIT_S,))
    thread.start()
    peers.wake()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_waking_nobody_often_blocks_nobody(peers: Peers) -> None:
    for _ in range(100_000):
        peers.wake()
    peers.wait(LIMIT_S)


# -- agents that are gone ------------------------------------------------------------------


def test_an_agent_that_hung_up_is_reported_and_forgotten(
    peers: Peers, agent: Agent, lost: list[Peer]
) -> None:
    peer = peers.connect(agent.address)
    agent.hear()
    agent.connection.close()
    assert peers.wait(LIMIT_S) == []
    assert lost == [peer]
    assert len(peers) == 0


def test_what_an_agent_said_before_it_hung_up_is_heard(peers: Peers, agent: Agent) -> None:
    peers.connect(agent.address)
    agent.say(m.Greeting("agent", {}))
    agent.connection.shutdown(socket.SHUT_WR)
    ((_, message),) = peers.wait(LIMIT_S)
    assert message == m.Greeting("agent", {})


def test_sending_to_an_agent_that_is_gone_is_no_error(peers: Peers, agent: Agent) -> None:
    peer = peers.connect(agent.address)
    assert peer is not None
    agent.hear()
    agent.close()
    while peer.send(m.Look((b"batch",))):
        pass
    peers.send(m.Look((b"batch",)))


def test_hanging_up_releases_everything(lost: list[Peer], agent: Agent) -> None:
    peers = Peers(JOB, want_logs=False, on_lost=lost.append)
    peers.connect(agent.address)
    agent.hear()
    peers.close()
    assert agent.connection.recv(1) == b""
    assert lost == []


# -- agents that are paused ----------------------------------------------------------------


def test_a_paused_agent_blocks_nobody(peers: Peers, make_agent: Make) -> None:
    paused, live = make_agent(), make_agent()
    for agent in (paused, live):
        peers.connect(agent.address)
    for _ in range(3):
        peers.send(LARGE)
        peers.send(m.Look((b"batch",)))
    live.hear()


def test_half_a_frame_is_finished_before_anything_else(peers: Peers, agent: Agent) -> None:
    peer = peers.connect(agent.address)
    assert peer is not None
    assert isinstance(agent.hear(), m.Attach)
    peer.send(LARGE)
    # It has only taken in the beginning: what comes meanwhile is dropped, not put into the middle.
    for number in range(3):
        peer.send(m.Ask(number, "dropped"))
    done = threading.Event()

    def finish() -> None:
        while not done.is_set():
            peer.send(m.Ask(100, "after"))

    thread = threading.Thread(target=finish)
    thread.start()
    heard = [agent.hear(), agent.hear()]
    done.set()
    thread.join()
    assert heard == [LARGE, m.Ask(100, "after")]


def test_hints_for_which_there_is_no_room_are_dropped_whole(peers: Peers, agent: Agent) -> None:
    peer = peers.connect(agent.address)
    assert peer is not None
    agent.hear()
    for number in range(5000):
        peer.send(m.Ask(number, "x" * 1000))
    peer.socket.shutdown(socket.SHUT_WR)
    unpacker, heard = Unpacker(), []
    while data := agent.connection.recv(1 << 20):
        heard += unpacker.feed(data)
    numbers = [message.request for message in heard if isinstance(message, m.Ask)]
    assert numbers == list(range(len(heard)))
    assert 0 < len(heard) < 5000


def test_an_agent_that_accepts_nobody_blocks_nobody(peers: Peers, make_agent: Make) -> None:
    agent = make_agent(backlog=0)
    while peers.connect(agent.address) is not None:
        pass
    assert peers.connect(agent.address) is None


def test_the_last_messages_are_heard_to_their_end(peers: Peers, agent: Agent) -> None:
    """More than one read takes in, and more than a socket holds."""
    peers.connect(agent.address)
    assert agent.connection.fileno() >= 0
    talking = threading.Thread(target=agent.say, args=(LARGE, m.Leave()))
    talking.start()
    while not (first := peers.wait(LIMIT_S)) and not any(
        peer.halfway for peer in peers._by_descriptor.values()
    ):
        pass
    assert first == []
    assert list(peers.last_messages(LIMIT_S)) == [LARGE, m.Leave()]
    talking.join()


def test_where_nothing_comes_the_last_messages_are_none(peers: Peers, agent: Agent) -> None:
    peers.connect(agent.address)
    assert list(peers.last_messages(LIMIT_S)) == []
