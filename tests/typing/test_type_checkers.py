"""Both type checkers accept and refuse exactly what `calls.py` says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLS = Path(__file__).with_name("calls.py")
IGNORE = re.compile(r"  # type: ignore.*$", re.MULTILINE)


@pytest.fixture
def bare_calls(tmp_path: Path) -> Path:
    """`calls.py` without what silences the type checkers."""
    path = tmp_path / "bare_calls.py"
    path.write_text(IGNORE.sub("", CALLS.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def lines_to_refuse() -> list[int]:
    lines = CALLS.read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if IGNORE.search(line)]


def run(*command: str, cwd: Path) -> str:
    """What a tool prints, with this checkout importable."""
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_mypy_refuses_the_marked_lines_only(bare_calls: Path) -> None:
    pytest.importorskip("mypy")
    printed = run(
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        "--output=json",
        f"--cache-dir={ROOT / '.mypy_cache' / 'typing'}",
        str(bare_calls),
        cwd=bare_calls.parent,
    )
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    errors = {error["line"]: error["message"] for error in found if error["severity"] == "error"}
    assert sorted(errors) == lines_to_refuse(), errors


def test_pyright_refuses_the_marked_lines_only(bare_calls: Path) -> None:
    pytest.importorskip("pyright")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    bare_calls.with_name("pyrightconfig.json").write_text(json.dumps(settings))
    printed = run(
        "pyright",
        "--outputjson",
        f"--pythonpath={sys.executable}",
        bare_calls.name,
        cwd=bare_calls.parent,
    )
    errors = {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in json.loads(printed)["generalDiagnostics"]
        if found["severity"] == "error"
    }
    assert sorted(errors) == lines_to_refuse(), errors
