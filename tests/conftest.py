"""Under CI=true a skipped test is a failure, unless its reason stands in allowed_skips.txt.

A test that silently stops running is worse than one that fails. On a developer's machine skips
stay skips.

And no test sees the settings of whoever runs it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cloudray.api.settings import BY_VARIABLE
from cloudray.api.userfile import VARIABLE
from cloudray.store import Kind
from tests import servers
from tests.servers import Server

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")

# Before anything is collected, and for the programs that tests start.
os.environ[VARIABLE] = os.devnull
for _variable in BY_VARIABLE:
    os.environ.pop(_variable, None)


def pytest_configure(config: pytest.Config) -> None:
    """Name what tests are marked with."""
    config.addinivalue_line("markers", "buckets: runs on clusters in buckets, too")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name records by their kind: their nonces would give a test another name at each run."""
    if isinstance(val, bytes) and val.startswith(b"CRAY"):
        return Kind(val[5]).name.lower()
    return None


@pytest.fixture(scope="session")
def localstack() -> Iterator[Server]:
    """LocalStack, started for the first test that wants it."""
    with servers.started("localstack") as server:
        yield server


@pytest.fixture(scope="session")
def radosgw() -> Iterator[Server]:
    """Ceph's S3."""
    with servers.started("radosgw") as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """S3 by moto: for tests in which concurrency does not matter."""
    with servers.started("moto") as server:
        yield server


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the report of a test, after every other plugin has had its say."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the report of a module, which may skip itself as a whole."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or os.environ.get("CI") != "true":
        return
    reason = _reason(report)
    if reason not in _allowed_reasons():
        report.outcome = "failed"
        report.longrepr = (
            f"skipped in CI: {reason!r}. Let it run there, or write this reason on a line of "
            f"its own in {ALLOWED_SKIPS.name}."
        )


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # A skip's longrepr is (path, line, "Skipped: " + reason).
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _allowed_reasons() -> set[str]:
    lines = (line.strip() for line in ALLOWED_SKIPS.read_text().splitlines())
    return {line for line in lines if line and not line.startswith("#")}
