from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator

import pytest

from cloudray import ids
from cloudray.driver.client import DriverClient
from cloudray.driver.session import Session
from cloudray.protocol.records import Heartbeat, seal
from cloudray.store import layout
from tests.unit.driver.distant import driver_of
from tests.unit.driver.gated import GatedStore


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """An agent's socket, at which nobody answers."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/agent")
        listener.listen()
        listener.setblocking(False)
        yield listener


@pytest.fixture
def client() -> Iterator[DriverClient]:
    store = GatedStore()
    with driver_of(store) as client:
        yield client


def accept_all(listener: socket.socket) -> int:
    """How often somebody has connected."""
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def beat_at(listener: socket.socket) -> Heartbeat:
    return Heartbeat(
        agent=ids.to_text(ids.new_timed_id()),
        beat=1,
        host=socket.gethostname(),
        pid=1,
        socket=listener.getsockname(),
        total={"CPU": 20_000},
        free={"CPU": 20_000},
    )


def test_an_agent_that_is_seen_again_is_not_connected_to_again(
    client: DriverClient, listener: socket.socket
) -> None:
    beat = beat_at(listener)
    for _ in range(3):
        client.see([beat])
    # Who is connected twice prints everything twice.
    assert accept_all(listener) == 1


def test_who_joins_connects_to_an_agent_once(client: DriverClient, listener: socket.socket) -> None:
    beat = beat_at(listener)
    client.store.put(layout.agent(beat.agent), seal(beat))
    session = Session.__new__(Session)
    session.cluster = None
    session.address = client.store.url
    session.client = client
    session._written = (layout.agent(beat.agent), 0.0)
    session._connect()
    assert accept_all(listener) == 1
