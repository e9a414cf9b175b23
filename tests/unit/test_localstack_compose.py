"""`localstack/compose.yaml` starts what `localstack/start.py` starts without a container."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

LOCALSTACK = Path(__file__).parents[2] / "localstack"


@pytest.fixture
def start() -> dict[str, Any]:
    """The names in the program that starts it."""
    return runpy.run_path(str(LOCALSTACK / "start.py"))


@pytest.fixture
def compose() -> dict[str, Any]:
    """The file, as Docker reads it: with a port, and without comments."""
    yaml: Any = import_module("yaml")  # which has no types
    text = (LOCALSTACK / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text.replace("${LOCALSTACK_PORT:-4566}", "5000"))
    return found


@pytest.fixture
def service(compose: dict[str, Any]) -> dict[str, Any]:
    (found,) = compose["services"].values()
    return dict(found)


def test_the_file_says_only_what_compose_knows(
    compose: dict[str, Any], service: dict[str, Any]
) -> None:
    assert compose.keys() == {"name", "services"}
    assert re.fullmatch("[a-z0-9][a-z0-9_-]*", compose["name"])
    known = {"image", "ports", "environment", "volumes", "tmpfs", "healthcheck"}
    assert service.keys() == known
    assert service["healthcheck"].keys() == {"test", "interval", "timeout", "retries"}
    # A number or a boolean here would be something else to Docker than to a shell.
    assert {type(value) for value in service["environment"].values()} == {str}


def test_each_port_has_a_project_of_its_own(compose: dict[str, Any]) -> None:
    assert compose["name"].endswith("-5000")


def test_it_is_the_same_localstack_on_the_same_port_of_this_machine_alone(
    start: dict[str, Any], service: dict[str, Any]
) -> None:
    assert service["image"] == f"localstack/localstack:{start['VERSION']}"
    assert service["ports"] == ["127.0.0.1:5000:4566"]
    environment = service["environment"]
    assert environment["LOCALSTACK_HOST"] == "127.0.0.1:5000"
    assert set(environment["SERVICES"].split(",")) == {"s3", "sqs"}


def test_its_start_makes_the_bucket_and_the_queue_that_its_health_waits_for(
    start: dict[str, Any], service: dict[str, Any]
) -> None:
    (mounted,) = service["volumes"]
    folder, inside, mode = mounted.split(":")
    assert (inside, mode) == ("/etc/localstack/init/ready.d", "ro")
    (script,) = (LOCALSTACK / folder).glob("*.sh")
    # LocalStack runs only what may be executed.
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert f"s3 mb s3://{start['NAME']}" in text
    assert f"create-queue --queue-name {start['NAME']}" in text
    assert service["healthcheck"]["test"][-1] == start["NAME"]
