"""Collected only where the libraries are installed: `make test-heavy` sees to that."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import cloudray as ray
from tests.integration import clusters
from tests.integration.clusters import Embedded

LIBRARIES = ("torch", "pandas", "pyarrow", "PIL")

if not all(find_spec(library) for library in LIBRARIES):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Embedded]:
    """A cluster that the tests of a module share."""
    cluster = clusters.start(num_cpus=2)
    yield cluster
    if ray.is_initialized():
        cluster.end()
