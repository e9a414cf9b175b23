from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from cloudray.driver import notices
from cloudray.driver.describing import Counts
from cloudray.protocol.arriving import Arrival
from cloudray.protocol.records import Heartbeat

JOB = "01a20de99d33ec654816"
REF = bytes(range(29))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """The logger as it was, whatever a test sets."""
    logger = logging.getLogger("cloudray")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


# -- starting ----------------------------------------------------------------------------------


def test_an_embedded_cluster_says_what_it_offers_and_where_it_is() -> None:
    offered = {"CPU": 40_000, "GPU": 10_000, "memory": 192 * 10**12, "tea": 0}
    assert notices.started("file:///dev/shm/x/store?durable=false", offered, 2_000_000_000) == (
        "embedded cluster, 4 CPUs, 1 GPU, 19.2 GB memory, 2.0 GB object store "
        "(file:///dev/shm/x/store)"
    )


def agent(python: str = "py311", **total: int) -> Heartbeat:
    return Heartbeat("a", 1, "host", 1, "", total or {"CPU": 10_000}, {}, python=python)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Arrival([agent()]), "joined s3://b/p, 1 agent, 1 CPU"),
        (
            Arrival([agent(CPU=20_000), agent(GPU=10_000)], pending=1),
            "joined s3://b/p, 2 agents, 2 CPUs, 1 GPU, 1 task pending",
        ),
        (
            Arrival([agent(CPU=40_000)], silent=1, pending=4000, more=True),
            "joined s3://b/p, 1 agent, 4 CPUs, over 4,000 tasks pending",
        ),
        (
            Arrival(pending=2, silent=1),
            (
                "joined s3://b/p, which no agent serves now (1 agent fell silent), 2 tasks pending"
                ". Tasks wait until one does: start it with `cloudray worker 's3://b/p?region=eu&a=b'`"
            ),
        ),
        (
            Arrival([agent("py312"), agent("py313")]),
            (
                "joined s3://b/p, 2 agents, 2 CPUs. None of them runs Python 3.11 as this program "
                "does (they have 3.12 and 3.13): tasks wait until one does. Start it with "
                "`cloudray worker 's3://b/p?region=eu&a=b'`"
            ),
        ),
        (Arrival([agent("py312"), agent()]), "joined s3://b/p, 2 agents, 2 CPUs"),
        (Arrival([agent("")]), "joined s3://b/p, 1 agent, 1 CPU"),
    ],
)
def test_a_joined_cluster_says_what_was_found(found: Arrival, text: str) -> None:
    assert notices.joined("s3://b/p?region=eu&a=b", found, "py311") == text


@pytest.mark.parametrize(
    ("found", "attention"),
    [
        (Arrival(), True),
        (Arrival([agent("py312")]), True),
        (Arrival([agent("py311")]), False),
        (Arrival([agent("")]), False),
    ],
)
def test_everybody_hears_that_nobody_can_help(found: Arrival, attention: bool) -> None:
    assert notices.needs_attention(found, "py311") is attention


@pytest.mark.parametrize("ahead_s", [None, 0.0, 299.0, -299.0])
def test_a_clock_that_is_right_enough_is_not_told(ahead_s: float | None) -> None:
    assert notices.wrong_clock(Arrival(ahead_s=ahead_s)) is None


def test_a_clock_that_is_wrong_is_told_by_how_much() -> None:
    said = notices.wrong_clock(Arrival(ahead_s=-400.0))
    assert said is not None
    assert said.startswith("the clock of this machine is 6 min 40 s behind that of the store.")


# -- ending ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(12, 3, 85), "12 tasks done, 3 running and 85 queued tasks were dropped"),
        (Counts(1, 0, 1), "1 task done, 1 queued task was dropped"),
        (Counts(2, 1, 0), "2 tasks done, 1 running task was dropped"),
        (Counts(2), "2 tasks done"),
    ],
)
def test_ctrl_c_says_what_it_stopped(counts: Counts, text: str) -> None:
    said = notices.stopped(counts, interrupted=True)
    assert said == f"interrupted; stopped the embedded cluster: {text}"


def test_an_end_with_work_pending_says_what_is_dropped() -> None:
    said = notices.stopped(Counts(5, 1, 2), interrupted=False)
    assert said is not None
    assert "1 running and 2 queued tasks were dropped" in said
    assert "cloudray.get(refs)" in said


def test_an_end_without_pending_work_says_nothing() -> None:
    assert notices.stopped(Counts(5), interrupted=False) is None
    assert notices.going_on("s3://b/p", JOB, Counts(5), interrupted=True) is None


def test_work_that_goes_on_can_be_collected_and_stopped() -> None:
    said = notices.going_on("s3://b/p", JOB, Counts(5, 3, 85, (REF,)), interrupted=True)
    assert said is not None
    first, *rest = said.splitlines()
    assert first == (
        "interrupted; 3 running and 85 queued tasks were left to s3://b/p, where work goes on as "
        f"job {JOB}."
    )
    text = "\n".join(rest)
    assert 'cloudray.init("s3://b/p")' in text
    assert f"cloudray jobs cancel {JOB} s3://b/p" in text
    assert f'cloudray.get(cloudray.get_job("{JOB}").refs())' in text
    assert "cloudray.get(cloudray.ref(...))" in text
    assert REF.hex() in text
    assert text.endswith("and 87 more: what their refs' hex() returns")


# -- who hears it --------------------------------------------------------------------------------


def test_who_looks_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    notices.inform("tea is ready")
    assert terminal.getvalue() == "cloudray: tea is ready\n"


def test_a_pipe_hears_warnings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    notices.inform("tea is ready")
    notices.warn("tea is cold")
    assert pipe.getvalue() == "cloudray: tea is cold\n"


@pytest.mark.parametrize(
    ("level", "heard"), [(logging.WARNING, ["cold"]), (logging.ERROR, []), (logging.DEBUG, None)]
)
def test_the_logging_level_decides_what_is_said(
    monkeypatch: pytest.MonkeyPatch, level: int, heard: list[str] | None
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logging.getLogger("cloudray").setLevel(level)
    notices.inform("ready")
    notices.warn("cold")
    said = [line.removeprefix("cloudray: ") for line in terminal.getvalue().splitlines()]
    assert said == (["ready", "cold"] if heard is None else heard)


def test_where_standard_error_is_closed_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    notices.warn("tea is cold")
