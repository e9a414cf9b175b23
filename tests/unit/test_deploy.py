"""The files in `deploy/` are what they say they are; their command is tested with the command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "cloudray-worker.service"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    # It looks for the program too, which is not installed here.
    text = re.sub(
        r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text(), flags=re.MULTILINE
    )
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    done = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_environment_file_has_only_variables_and_comments() -> None:
    lines = (ROOT / "deploy" / "worker.env").read_text().splitlines()
    assert all(re.fullmatch(r"|#.*|[A-Z_]+=.*", line) for line in lines)
