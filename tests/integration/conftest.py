"""One embedded cluster for the tests of a module that do not need their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import cloudray as ray
from tests.integration import clusters
from tests.integration.clusters import Embedded


class Shared:
    """The cluster that tests share: started for the first, started again after one with its own."""

    def __init__(self) -> None:
        self._cluster: Embedded | None = None

    def ensure(self) -> Embedded:
        if self._cluster is None:
            ray.shutdown()  # what a doctest has left
            self._cluster = clusters.start(num_cpus=2)
        return self._cluster

    def end(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            ray.shutdown()
        else:
            cluster.end()


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.end()


@pytest.fixture
def cluster(shared: Shared) -> Embedded:
    """A cluster of two CPUs that other tests use too."""
    return shared.ensure()


@pytest.fixture
def no_cluster(shared: Shared) -> Iterator[None]:
    """No cluster, and none afterwards."""
    shared.end()
    yield
    if ray.is_initialized():
        Embedded().end()


@pytest.fixture
def own_cluster(no_cluster: None) -> Callable[..., Embedded]:  # noqa: ARG001 - its teardown
    """Start a cluster for this test alone, with the options given."""
    return clusters.start
