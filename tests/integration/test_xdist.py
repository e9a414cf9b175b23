"""Tests that run in several processes: each worker of pytest-xdist has a cluster of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.chaos.family import Family, wait_until

#: What users write: one cluster for all tests of a worker.
CONFTEST = """
    import pytest
    import cloudray as ray

    @pytest.fixture(scope="session")
    def cluster():
        with ray.init(num_cpus=1) as context:
            yield context
"""
#: Or nothing at all: the first use starts one, which ends with its worker.
CONFTEST_WITHOUT = """
    import pytest
    import cloudray as ray

    @pytest.fixture(scope="session")
    def cluster():
        return ray.init(num_cpus=1, ignore_reinit_error=True)
"""
TESTS = """
    import os, pathlib, time
    import pytest
    import cloudray as ray

    @ray.remote
    def square(x):
        return x * x

    @pytest.mark.parametrize("number", range(6))
    def test_square(cluster, number, worker_id):
        assert ray.get(square.remote(number)) == number * number
        met = pathlib.Path(os.environ["TMPDIR"]) / "begun"
        met.mkdir(exist_ok=True)
        (met / worker_id).write_text(cluster["address"])
        # Both workers have a cluster at the same time.
        while len(list(met.iterdir())) < 2:
            time.sleep(0.01)
"""


@pytest.mark.parametrize("conftest", [CONFTEST, CONFTEST_WITHOUT], ids=["fixture", "left alone"])
def test_each_worker_has_a_cluster_and_nothing_is_left(tmp_path: Path, conftest: str) -> None:
    (tmp_path / "conftest.py").write_text(textwrap.dedent(conftest))
    (tmp_path / "test_squares.py").write_text(textwrap.dedent(TESTS))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    program = """
    import pytest
    sys.exit(pytest.main(["-n2", "-pno:cacheprovider", "--basetemp=base", "test_squares.py"]))
    """
    with Family(program, tmp_path) as family:
        printed = family.run()
        assert "6 passed" in printed
        addresses = {file.read_text() for file in (family.temp / "begun").iterdir()}
        assert len(addresses) == 2
        folders = [Path(one.removeprefix("file://").partition("?")[0]).parent for one in addresses]
        family.check_nothing_is_left()
        wait_until(
            lambda: not any(folder.exists() for folder in folders),
            lambda: [folder for folder in folders if folder.exists()],
        )
