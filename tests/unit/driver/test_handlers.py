"""A signal handler that submits and waits may come at any line of a driver that does so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import cloudray.driver
from cloudray.driver.background import Background
from cloudray.driver.peers import Peers
from cloudray.protocol import messages as m
from cloudray.protocol.messages import Message
from cloudray.values import codec
from cloudray.values.futures import Settler
from cloudray.values.outcomes import DONE, Outcome
from tests.unit.driver.distant import answer, driver_of, submit
from tests.unit.driver.gated import GatedStore, becomes
from tests.unit.driver.test_peers import JOB, Agent

#: Far more than it takes; who is stuck is so for ever.
LIMIT_S = 60.0
#: After so many a value is there that somebody waits for.
_LINES = 40
DRIVER = str(Path(cloudray.driver.__file__).parent)


class Interrupted:
    """Runs `work` in a thread, with `handler` before each line of the driver's that `work` runs.

    Not before the first lines, if `spared` says so.
    """

    def __init__(
        self,
        work: Callable[[], object],
        handler: Callable[[], object],
        folder: str = DRIVER,
        *,
        spared: int = 0,
    ) -> None:
        self._work = work
        self._handler = handler
        self._folder = folder
        self._spared = spared
        self.error: BaseException | None = None
        self.interruptions = 0

    def run(self) -> None:
        """Do so, and raise what was raised there."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "it is stuck"
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            # What a trace function calls is not traced.
            sys.settrace(self._trace)
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self.error = error
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        del arg
        if not frame.f_code.co_filename.startswith(self._folder):
            return None
        if event == "line":
            if self._spared:
                self._spared -= 1
            else:
                self.interruptions += 1
                self._handler()
        return self._trace


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


def test_it_may_submit_while_its_thread_does(store: GatedStore) -> None:
    with driver_of(store) as client:

        def work() -> None:
            ref = submit(client)
            client.flush()
            del ref

        Interrupted(work, work).run()
        assert not client._submitting._buffer


def test_it_may_wait_while_its_thread_does(store: GatedStore) -> None:
    with driver_of(store) as client:
        ref = submit(client)
        client.flush()
        lines: list[int] = []

        def handler() -> None:
            lines.append(1)
            other = submit(client)
            client.flush()
            answer(store, other, "other")
            assert client.get([other], LIMIT_S) == ["other"]
            if len(lines) == _LINES:
                answer(store, ref, "value")

        Interrupted(lambda: client.get([ref], LIMIT_S), handler).run()
        assert len(lines) >= _LINES
        assert not client._pump._waiting


def test_who_waits_goes_on_being_waited_for(store: GatedStore) -> None:
    with driver_of(store) as client:
        ref = submit(client)
        handled: list[object] = []

        def ready() -> bool:
            if not handled:
                handled.append(client.wait([ref], 1, 0.0))
            assert client._pump._waiting
            return True

        assert client._pump.run_until(ready, None)
        assert not client._pump._waiting


@pytest.mark.parametrize("spared", range(12))
def test_it_may_be_the_first_to_need_the_background(spared: int) -> None:
    background = Background()
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    try:
        background_work = Interrupted(
            lambda: background.spawn(work()), lambda: background.spawn(work()), spared=spared
        )
        background_work.run()
        assert becomes(lambda: len(done) == background_work.interruptions + 1)
    finally:
        background.close()


@pytest.mark.parametrize("spared", range(8))
def test_it_may_be_the_first_to_end_a_future(spared: int) -> None:
    settler = Settler()
    ended: list[Future[Any]] = []

    def settle() -> None:
        future: Future[Any] = Future()
        settler.settle(future, Outcome(DONE, codec.dumps("value").to_bytes()))
        ended.append(future)

    futures = str(Path(sys.modules[Settler.__module__].__file__ or ""))
    try:
        Interrupted(settle, settle, futures, spared=spared).run()
        assert [future.result(LIMIT_S) for future in ended] == ["value"] * len(ended)
        threads = [each for each in threading.enumerate() if each.name == "cloudray-futures"]
        assert threads == [settler._thread]
    finally:
        settler.close()


# -- agents that are reached -------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "agent.sock")
    yield agent
    agent.close()


@pytest.fixture
def peers(agent: Agent) -> Iterator[Peers]:
    peers = Peers(JOB, want_logs=False, on_lost=lambda _: None)
    peers.connect(agent.address)
    yield peers
    peers.close()


def test_it_may_send_while_its_thread_does(agent: Agent, peers: Peers) -> None:
    sent: list[int] = []

    def handler() -> None:
        # What it sends is sent by whom it interrupts, who so has more and more lines.
        if len(sent) < _LINES:
            sent.append(1)
            peers.send(m.Look((b"handler",)))

    Interrupted(lambda: peers.send(m.Look((b"work",))), handler).run()
    assert agent.hear() == m.Attach(JOB, want_logs=False)
    heard = [agent.hear() for _ in range(len(sent) + 1)]
    assert heard.count(m.Look((b"work",))) == 1
    assert heard.count(m.Look((b"handler",))) == len(sent) == _LINES


def test_it_may_listen_while_its_thread_does(agent: Agent, peers: Peers) -> None:
    heard: list[Message] = []

    def listen() -> None:
        peers.listen(0.0, lambda each: heard.append(each[1]))

    for spared in range(40):
        agent.say(m.Greeting(str(spared), {}))
        Interrupted(listen, listen, spared=spared).run()
    assert heard == [m.Greeting(str(spared), {}) for spared in range(40)]


def test_it_may_listen_within_a_poll(
    agent: Agent, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.say(m.Greeting("agent", {}))
    within: list[Any] = []
    poll = peers._poll

    class Poll:
        def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
            ready = poll.poll(timeout_ms)
            if within:
                raise RuntimeError("concurrent poll() invocation")
            within.append(None)
            within.append(peers.wait(LIMIT_S))
            return ready

    monkeypatch.setattr(peers, "_poll", Poll())
    # It was told of what the handler has read; so nothing is there.
    assert peers.wait(LIMIT_S) == []
    ((_, message),) = within[1]
    assert message == m.Greeting("agent", {})
    monkeypatch.undo()
    assert peers.wait(0.0) == []
