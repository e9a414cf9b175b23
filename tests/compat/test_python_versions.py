"""The fast part of the suite, under each Python that this machine has and the package supports."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: Of the test group, what the fast part needs.
TOOLS = {
    "aiobotocore",
    "boto3",
    "hypothesis",
    "numpy",
    "psutil",
    "pytest",
    "pytest-timeout",
    "pyyaml",
}
#: Tests that start no cluster; one program that does joins them.
FAST = ["tests/unit"]
SMOKE = "tests/compat/smoke.py"
#: Environments lie in this one, and go with it.
ENVIRONMENTS = (Path(sys.prefix) if sys.prefix != sys.base_prefix else ROOT / ".venv") / "compat"
#: A line of dots, with an F among them perhaps.
_PROGRESS = re.compile(r"^[.sxFE]+ +\[ *\d+%\]\n", re.MULTILINE)
RUNNING = sys.version_info[:2]
#: The oldest one that the package supports.
OLDEST = tuple(
    int(part) for part in PROJECT["project"]["requires-python"].removeprefix(">=").split(".")
)

Version = tuple[int, int]


def candidates() -> Iterator[str]:
    """Interpreters that may be there: on the PATH, and those of pyenv."""
    names = [f"python3.{minor}" for minor in range(30)]
    yield from filter(None, map(shutil.which, names))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob("versions/*/bin/python3")))


@cache
def others() -> dict[Version, str]:
    """One interpreter for each other version that the package supports."""
    found: dict[Version, str] = {}
    for candidate in candidates():
        version = version_of(candidate)
        if version is not None and version >= OLDEST and version != RUNNING:
            found.setdefault(version, candidate)
    return found


def version_of(interpreter: str) -> Version | None:
    """Its version; None when it does not work (a shim without a version behind it, say)."""
    question = "import ensurepip, sys; print(*sys.version_info[:2])"
    asked = subprocess.run(
        [interpreter, "-c", question], capture_output=True, check=False, text=True
    )
    if asked.returncode != 0:
        return None
    major, minor = asked.stdout.split()
    return int(major), int(minor)


def requirements() -> list[str]:
    """What the package needs, and what its fast tests need."""
    tools = [
        one
        for one in PROJECT["dependency-groups"]["test"]
        if isinstance(one, str) and re.split(r"[\[<>=~! ]", one)[0] in TOOLS
    ]
    assert len(tools) == len(TOOLS)
    return sorted(PROJECT["project"]["dependencies"] + tools)


def environment_of(version: Version) -> Path:
    """The interpreter of an environment with all that is needed; made once."""
    folder = ENVIRONMENTS / ".".join(map(str, version))
    python = folder / "bin" / "python"
    needed = requirements()
    stamp = folder / hashlib.sha256("\n".join(needed).encode()).hexdigest()[:16]
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run([others()[version], "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        if subprocess.run([*pip, *needed], check=False).returncode != 0:
            pytest.skip("the packages for another Python cannot be installed here")
        site = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        # The package itself, as an editable installation has it.
        (Path(site.strip()) / "cloudray.pth").write_text(f"{ROOT}\n")
        stamp.touch()
    return python


def run(command: Sequence[str], **variables: str) -> str:
    """Run a program and return its output; fails with all that it said if it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        said = _PROGRESS.sub("", done.stdout)
        pytest.fail(f"{' '.join(command)}\n{said}", pytrace=False)
    return done.stdout


def text_of(version: Version) -> str:
    return ".".join(map(str, version))


def test_the_versions_that_are_named_are_supported() -> None:
    assert RUNNING >= OLDEST
    named = {
        tuple(map(int, line.rpartition(" ")[2].split(".")))
        for line in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    }
    assert min(named) == OLDEST
    assert {(3, 11), (3, 12), (3, 13)} <= named


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", [RUNNING, *sorted(others())], ids=text_of)
def test_a_cluster_works(version: Version) -> None:
    python = sys.executable if version == RUNNING else str(environment_of(version))
    said = run([python, SMOKE], PYTHONPATH=str(ROOT), PYTHONWARNINGS="error::DeprecationWarning")
    assert said.splitlines()[-1] == f"{text_of(version)} done"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", sorted(others()), ids=text_of)
def test_the_fast_tests_pass(version: Version) -> None:
    python = str(environment_of(version))
    said = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FAST])
    assert re.search(r"\d{3,} passed", said)
