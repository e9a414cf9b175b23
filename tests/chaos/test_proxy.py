"""The bad network does what it says, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException

import pytest

from tests.chaos.proxy import CALM, Door, Fate, Proxy
from tests.unit.store.http_service import Answer, Service, serve

LARGE = bytes(range(256)) * 4000
HUNG_UP = (OSError, HTTPException)


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as service:
        service.will(Answer(200, "a body of some length"))
        yield service


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    with Proxy(int(service.endpoint.rpartition(":")[2]), seed=1) as proxy:
        yield proxy


@pytest.fixture
def door(proxy: Proxy) -> Door:
    return proxy.open()


@pytest.fixture
def client(door: Door) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", door.port, timeout=30)
    yield connection
    connection.close()


def ask(client: HTTPConnection, method: str = "PUT", body: bytes = b"") -> tuple[int, bytes]:
    client.request(method, "/key", body)
    answer = client.getresponse()
    return answer.status, answer.read()


def ask_at(door: Door) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", door.port, timeout=30)) as client:
        return ask(client)


def test_what_passes_is_not_changed(client: HTTPConnection, service: Service) -> None:
    service.will(Answer(200, "ü" * 300_000))
    for _ in range(3):
        assert ask(client, body=LARGE) == (200, ("ü" * 300_000).encode())
    assert [request.body for request in service.requests] == [LARGE] * 3
    assert ask(client, "HEAD") == (200, b"")
    service.will(Answer(304))
    assert ask(client, "GET") == (304, b"")


def test_what_is_refused_does_not_reach_the_server(
    client: HTTPConnection, proxy: Proxy, service: Service
) -> None:
    proxy.weather = CALM._replace(refused=1.0)
    status, body = ask(client, body=LARGE)
    assert status == 503
    assert b"SlowDown" in body
    proxy.weather = CALM
    # The connection is as good as before.
    assert ask(client)[0] == 200
    assert [request.body for request in service.requests] == [b""]


def test_what_is_half_sent_never_arrives_whole(
    client: HTTPConnection, proxy: Proxy, service: Service
) -> None:
    proxy.weather = CALM._replace(half_sent=1.0)
    with pytest.raises(HUNG_UP):
        ask(client, body=LARGE)
    assert LARGE not in [request.body for request in service.requests]


def test_what_is_unanswered_was_served(
    client: HTTPConnection, proxy: Proxy, service: Service
) -> None:
    proxy.weather = CALM._replace(unanswered=1.0)
    with pytest.raises(HUNG_UP):
        ask(client, body=LARGE)
    assert [request.body for request in service.requests] == [LARGE]


def test_half_an_answer_is_known_for_that(client: HTTPConnection, proxy: Proxy) -> None:
    proxy.weather = CALM._replace(half_answered=1.0)
    with pytest.raises(HUNG_UP):
        ask(client)


def test_fates_are_counted(client: HTTPConnection, door: Door, proxy: Proxy) -> None:
    proxy.weather = CALM._replace(refused=1.0)
    ask(client)
    proxy.weather = CALM
    ask(client)
    assert door.fates == {Fate.REFUSED: 1, Fate.PASSED: 1}


def test_behind_a_stalled_door_requests_wait_until_it_is_healed(
    client: HTTPConnection, door: Door, service: Service
) -> None:
    assert ask(client)[0] == 200
    door.stall()
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(client, body=b"late")))
    asking.start()
    while door.fates[Fate.PASSED] != 2:
        time.sleep(0.002)
    assert len(service.requests) == 1
    door.heal()
    asking.join()
    assert [status for status, _ in answers] == [200]
    assert service.requests[-1].body == b"late"


def test_a_door_that_is_cut_ends_all_connections_and_another_stays_open(
    client: HTTPConnection, door: Door, proxy: Proxy
) -> None:
    assert ask(client)[0] == 200
    door.cut()
    with pytest.raises(HUNG_UP):
        ask(client)
    with pytest.raises(HUNG_UP):
        ask_at(door)
    assert ask_at(proxy.open())[0] == 200
    door.heal()
    assert ask_at(door)[0] == 200
