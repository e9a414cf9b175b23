"""One cluster for the tests of a module that do not need their own.

It is embedded. A test that is marked `buckets` runs three times: there, and on clusters in
buckets of LocalStack and of Ceph, each of which has one agent for the whole session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import cloudray as ray
from tests import buckets
from tests.integration import clusters
from tests.integration.clusters import Embedded
from tests.servers import Server

EMBEDDED, LOCALSTACK, RADOSGW = "embedded", "localstack", "radosgw"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `buckets` on every kind of cluster, one kind after the other."""
    if metafunc.definition.get_closest_marker("buckets"):
        kinds = [EMBEDDED, LOCALSTACK, RADOSGW]
        metafunc.parametrize("kind", kinds, indirect=True, scope="module")


class Shared:
    """The cluster that tests share: started for the first, started again after one with its own."""

    def __init__(self) -> None:
        self._cluster: Embedded | None = None
        #: of the cluster in a bucket that is joined now
        self._address: str | None = None
        self._credentials = ExitStack()

    def ensure(self, address: str | None = None) -> Embedded | None:
        """The embedded cluster; where there is an address, the one there is joined instead."""
        if address != self._address:
            self.end()
        if address is not None:
            if self._address is None:
                ray.shutdown()
                self._credentials.enter_context(buckets.credentials())
                ray.init(address)
                self._address = address
        elif self._cluster is None:
            ray.shutdown()  # what a doctest has left
            self._cluster = clusters.start(num_cpus=2)
        return self._cluster

    def end(self) -> None:
        cluster, self._cluster, self._address = self._cluster, None, None
        if cluster is None:
            ray.shutdown()
        else:
            cluster.end()
        self._credentials.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.end()


@pytest.fixture(scope="session")
def on_localstack(localstack: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with an agent of two CPUs."""
    yield from _in_bucket(localstack, tmp_path_factory)


@pytest.fixture(scope="session")
def on_radosgw(radosgw: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with an agent of two CPUs."""
    yield from _in_bucket(radosgw, tmp_path_factory)


def _in_bucket(server: Server, folders: pytest.TempPathFactory) -> Iterator[str]:
    with buckets.cluster_in_bucket(
        folders.mktemp("sockets"),
        "--num-cpus=2",
        server=server,
        prefix="integration",
        timing=buckets.CALM,
    ) as address:
        yield address


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """What kind of cluster the test runs on."""
    chosen: str = getattr(request, "param", EMBEDDED)
    return chosen


@pytest.fixture
def cluster(request: pytest.FixtureRequest, shared: Shared, kind: str) -> Embedded | None:
    """A cluster of two CPUs that other tests use too; None where it is not embedded."""
    return shared.ensure(None if kind == EMBEDDED else request.getfixturevalue(f"on_{kind}"))


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
