"""Credentials that end while a driver works."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import servers
from tests.buckets import CALM, cluster_in_bucket
from tests.integration.drivers import environment
from tests.integration.expiring import gate_before

PROGRAM = """
import sys
import cloudray as ray

@ray.remote
def double(number):
    return 2 * number

ray.init(sys.argv[1])
print(ray.get(double.remote(1)), flush=True)
sys.stdin.readline()
print(ray.get(double.remote(2)), flush=True)
"""


@pytest.mark.parametrize("client", ["obstore", "aiobotocore"])
def test_a_driver_whose_credentials_expire_says_what_to_do_once_and_goes_on(
    tmp_path: Path, client: str
) -> None:
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {servers.CREDENTIALS['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {servers.CREDENTIALS['AWS_SECRET_ACCESS_KEY']}\n"
    )
    env = environment(AWS_PROFILE="work", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        env.pop(name, None)
    with (
        servers.moto() as server,
        cluster_in_bucket(tmp_path, "--num-cpus", "1", server=server, timing=CALM),
        gate_before(server.port) as gate,
    ):
        address = f"{server.address('cluster', port=gate.port)}&client={client}"
        driver = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), address],
            env=env,
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with driver:
            try:
                assert driver.stdin
                assert driver.stdout
                assert driver.stderr
                assert driver.stdout.readline() == "2\n"
                gate.expired = True
                driver.stdin.write("go on\n")
                driver.stdin.flush()
                said = driver.stderr.readline()
                assert "the AWS credentials of the profile 'work' have expired. Write" in said
                gate.expired = False
                assert driver.stdout.readline() == "4\n"
                rest = driver.stderr.read()
                assert rest.count("have expired") == 0
                assert "answers again" in rest
                assert driver.wait(60) == 0
            finally:
                driver.kill()
