from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import settings

from cloudray import configuration, context
from cloudray.configuration import Configuration
from tests.unit.recording import RecordingClient

# No test depends on how fast the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def client() -> Iterator[RecordingClient]:
    """The current client, for the time of a test."""
    recording = RecordingClient()
    context.register(cast("context.Client", recording))
    yield recording
    context.register(None)


@pytest.fixture
def configure() -> Iterator[Callable[..., None]]:
    """Let these settings hold, for the time of a test."""
    yield lambda **settings: configuration.use(Configuration(**settings))
    configuration.use(None)
