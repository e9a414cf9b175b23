from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_an_agent_says_in_one_line_that_its_folder_for_sockets_is_not_its_users_alone() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        (Path(base) / "cloudray").mkdir()
        (Path(base) / "cloudray").chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cloudray", "worker", f"file://{base}/store"],
            env={**os.environ, "XDG_RUNTIME_DIR": base, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"cloudray worker: {base}/cloudray is not this user's alone")
        # Nothing was written anywhere.
        assert [path.name for path in Path(base).iterdir()] == ["cloudray"]
