"""Running a command line in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from cloudray import configuration
from cloudray.cli.app import run


class Ended(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    output: str
    errors: str


@pytest.fixture
def cloudray(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Ended]]:
    """Run `cloudray` with these words."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str) -> Ended:
        try:
            code = run(words)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Ended(code, *capfd.readouterr())

    yield call
    configuration.use(None)
