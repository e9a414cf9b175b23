"""The wheel is whole: installed where no source tree is, it runs a task."""

from __future__ import annotations

import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, run_program

PROGRAM = """
import cloudray as ray

@ray.remote
def where():
    import cloudray
    return cloudray.__file__

if __name__ == "__main__":
    ray.init()
    print(ray.get(where.remote()))
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this source tree."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    run_program([*command, str(ROOT)])
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel.

    The wheel's dependencies come from this environment, by a path file: a package that lies
    there as a link to the source tree is not seen through it.
    """
    home = tmp_path_factory.mktemp("env")
    venv.create(home, symlinks=True)
    executable = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(executable), "install", "--quiet"]
    run_program([*pip, "--no-index", "--no-deps", str(wheel)])
    (site,) = home.glob("lib/python*/site-packages")
    site.joinpath("dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cloudray"}
    assert "cloudray/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_installed_wheel_runs_a_task(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    imported = Path(run_program([python, program], cwd=tmp_path).strip())
    assert imported.is_relative_to(python.parents[1])
