"""The examples in docstrings run as tests; each leaves the cluster that it started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _leave_the_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if isinstance(request.node, pytest.DoctestItem):
        import cloudray

        cloudray.shutdown()
