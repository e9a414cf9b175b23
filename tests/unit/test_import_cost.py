"""`import cloudray` costs little: what a program may not need is loaded when it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import json, sys
before = set(sys.modules)
import cloudray
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that `import cloudray` loads in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def test_the_package_itself_is_loaded(loaded: set[str]) -> None:
    assert "cloudray" in loaded


@pytest.mark.parametrize(
    "module",
    [
        "aiobotocore",
        "aiohttp",
        "boto3",
        "botocore",
        "fastapi",
        "fsspec",
        "numpy",
        "obstore",
        "rich",
        "starlette",
        "tomllib",
        "typer",
    ],
)
def test_import_does_not_load(loaded: set[str], module: str) -> None:
    assert module not in loaded
