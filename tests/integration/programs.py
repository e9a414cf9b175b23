"""Running a program and reading what it prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_program(command: Sequence[str | Path], *, cwd: Path = ROOT) -> str:
    """Run a program to its end and return its output; fails with its errors if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        # Wide enough that no table is folded.
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
