"""Joining a cluster in a bucket: what a driver asks, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cloudray.store.probe import RIVALS
from tests import servers
from tests.integration.drivers import Ended, run_driver
from tests.servers import Server

_serial = count()
JOIN = """
import cloudray as ray
from cloudray import context
try:
    ray.init()
    print(context.client().ledger.as_dict()["put"])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture
def address(moto: Server) -> str:
    """Of a cluster that is not there yet."""
    return moto.address(f"joining-{next(_serial)}")


def join(address: str, folder: Path) -> Ended:
    return run_driver(JOIN, folder, env={**servers.CREDENTIALS, "CLOUDRAY_ADDRESS": address})


@pytest.mark.parametrize("client", ["obstore", "aiobotocore"])
def test_a_store_is_probed_by_the_first_driver_only(
    address: str, tmp_path: Path, client: str
) -> None:
    (first,) = join(f"{address}&client={client}", tmp_path).lines()
    (second,) = join(f"{address}&client={client}", tmp_path).lines()
    # The second stores who it is, and nothing else.
    assert int(first) > RIVALS
    assert int(second) == 1


def test_a_cluster_that_nobody_serves_says_how_to_start_an_agent(
    address: str, tmp_path: Path
) -> None:
    place = address.partition("?")[0]
    assert join(address, tmp_path).err == (
        f"cloudray: joined {place}, which no agent serves now. Tasks wait until one does: start "
        f"it with `cloudray worker '{address}'`\n"
    )


def test_a_cluster_may_be_named_in_the_users_file(address: str, tmp_path: Path) -> None:
    file = tmp_path / "cloudray.toml"
    file.write_text(f'[clusters.night]\naddress = "{address}&client=aiobotocore"\n')
    env = {**servers.CREDENTIALS, "CLOUDRAY_ADDRESS": "night", "CLOUDRAY_CONFIG": str(file)}
    assert f"joined {address.partition('?')[0]}" in run_driver(JOIN, tmp_path, env=env).err


def test_a_bucket_that_does_not_exist_is_told(address: str, tmp_path: Path) -> None:
    missing = address.replace(servers.BUCKET, "clodray")
    (said,) = join(missing, tmp_path).lines()
    assert said == (
        f"ConnectionError Could not join the cluster at {missing}: reading cluster failed: there "
        f"is no bucket at {missing}. Make it, or mend the URL."
    )
