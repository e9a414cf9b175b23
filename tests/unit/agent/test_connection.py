from __future__ import annotations

import asyncio
import socket

import pytest

from cloudray.agent.connection import Connection
from cloudray.protocol.messages import Ask, Attach, Leave, Message, Recall, pack
from tests.unit.agent.bench import Wire


@pytest.fixture
def heard() -> list[Message]:
    return []


@pytest.fixture
def closed() -> list[Connection]:
    return []


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def connection(heard: list[Message], closed: list[Connection], wire: Wire) -> Connection:
    connection = Connection(lambda _, message: heard.append(message), closed.append)
    connection.connection_made(wire)
    return connection


def test_messages_are_handed_on_in_order(connection: Connection, heard: list[Message]) -> None:
    connection.data_received(pack(Ask(1, "nodes")) + pack(Attach(b"job", want_logs=True)))
    assert heard == [Ask(1, "nodes"), Attach(b"job", want_logs=True)]


def test_a_message_in_pieces_is_handed_on_when_it_is_whole(
    connection: Connection, heard: list[Message]
) -> None:
    frame = pack(Ask(1, "nodes"))
    connection.data_received(frame[:5])
    assert heard == []
    connection.data_received(frame[5:])
    assert heard == [Ask(1, "nodes")]


def test_messages_arrive_at_the_other_end(connection: Connection, wire: Wire) -> None:
    connection.send(Recall())
    connection.hint(Leave())
    assert wire.messages == [Recall(), Leave()]


def test_a_peer_that_does_not_listen_gets_no_more_hints(connection: Connection, wire: Wire) -> None:
    wire.unread_bytes = 16 << 20
    connection.hint(Leave())
    connection.send(Recall())
    assert wire.messages == [Recall()]


def test_hanging_up_closes_the_connection(connection: Connection, wire: Wire) -> None:
    connection.close()
    assert wire.closed


def test_nothing_is_sent_into_a_connection_that_closes(connection: Connection, wire: Wire) -> None:
    connection.close()
    connection.send(Recall())
    connection.hint(Leave())
    assert wire.messages == []


def test_a_peer_that_has_gone_is_reported(connection: Connection, closed: list[Connection]) -> None:
    connection.connection_lost(None)
    assert closed == [connection]


async def test_what_a_peer_said_last_is_heard_though_a_write_to_it_has_failed(
    heard: list[Message],
) -> None:
    carrier, peer = socket.socketpair()
    closed = asyncio.Event()
    connection = Connection(lambda _, message: heard.append(message), lambda _: closed.set())
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: connection, sock=carrier)
    connection.keep()
    connection.send(Leave())
    peer.sendall(pack(Ask(1, "nodes")))
    peer.close()
    connection.send(Recall())
    await closed.wait()
    assert heard == []
    connection.hear_out()
    assert heard == [Ask(1, "nodes")]


async def test_a_peer_hears_that_it_is_not_heard_any_more() -> None:
    carrier, peer = socket.socketpair()
    closed = asyncio.Event()
    connection = Connection(lambda *_: None, lambda _: closed.set())
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: connection, sock=carrier)
    connection.keep()
    transport.abort()
    await closed.wait()
    with peer:
        assert peer.recv(1) == b""
    connection.close()


def test_nothing_happens_to_messages_for_a_peer_that_has_gone(
    connection: Connection, wire: Wire
) -> None:
    connection.connection_lost(ConnectionResetError())
    connection.send(Recall())
    connection.hint(Leave())
    connection.close()
    assert (wire.messages, wire.closed) == ([], False)
