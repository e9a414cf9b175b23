"""The extra `cloudray[aws]`: libraries that pin each other must agree on one botocore."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv

import pytest
from packaging.requirements import Requirement

from tests.integration.programs import ROOT

#: How pip says that there is no network.
_OFFLINE = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")
Resolved = dict[str, tuple[str, list[Requirement]]]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    """What pip would install into a clean environment for `cloudray[aws]`.

    By name: the version, and what it requires.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "env", with_pip=False)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["aws"]]
    report = folder / "report.json"
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "env"), "install", "--dry-run"]
    done = subprocess.run(
        [*pip, "--quiet", "--no-input", "--report", str(report), *wanted],
        capture_output=True,
        check=False,
        text=True,
    )
    if any(sign in done.stderr for sign in _OFFLINE):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    found = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    names = [each["name"].lower().replace("_", "-") for each in found]
    assert len(names) == len(set(names))
    return {
        name: (each["version"], [Requirement(text) for text in each.get("requires_dist", ())])
        for name, each in zip(names, found, strict=True)
    }


def test_the_extra_resolves_in_a_clean_environment(resolved: Resolved) -> None:
    assert resolved.keys() >= {"obstore", "aiobotocore", "boto3", "s3fs"}


@pytest.mark.parametrize(
    ("who", "needs"),
    [("aiobotocore", "botocore"), ("boto3", "botocore"), ("s3fs", "aiobotocore")],
)
def test_one_botocore_suits_everybody_who_pins_it(resolved: Resolved, who: str, needs: str) -> None:
    version, _ = resolved[needs]
    _, requirements = resolved[who]
    specifiers = [each.specifier for each in requirements if each.name == needs and not each.marker]
    assert specifiers
    assert all(version in specifier for specifier in specifiers)
