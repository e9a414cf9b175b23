"""The command lines that the documents show are understood, and do what they show."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudray.cli import worker
from cloudray.cli.app import COMMANDS
from tests.integration.programs import ROOT
from tests.unit.cli.conftest import Ended, cloudray  # noqa: F401 - a fixture

Cloudray = Callable[..., Ended]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


def blocks(document: Path) -> Iterator[list[str]]:
    """The indented and the fenced blocks of a document, as lines without their indent."""
    text = document.read_text(encoding="utf-8")
    for match in re.finditer(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield match[1].splitlines()
    for match in re.finditer(r"(?:^    \S.*\n)+", text, re.MULTILINE):
        yield [line.strip() for line in match[0].splitlines()]


def shown() -> Iterator[tuple[str, ...]]:
    """The words behind `cloudray` of each line in a block that calls it."""
    for document in DOCUMENTS:
        for line in (line for block in blocks(document) for line in block):
            called = re.match(r"(?:\.venv/bin/)?cloudray (.*)", line)
            if called is not None:
                yield tuple(shlex.split(called[1], comments=True))


def named() -> Iterator[tuple[str, ...]]:
    """The words behind `cloudray` of each command in a sentence."""
    for document in DOCUMENTS:
        for text in re.findall(r"`cloudray ([a-z][^`]*)`", document.read_text(encoding="utf-8")):
            # What programs say may begin with the name too.
            if text.split()[0] in {*COMMANDS} or len(text.split()) == 1:
                yield tuple(shlex.split(text))


SHOWN, NAMED = sorted(set(shown())), sorted(set(named()))


def test_there_are_commands_to_look_at() -> None:
    assert {words[0] for words in SHOWN} >= {"worker", "key"}
    assert {words[0] for words in NAMED} >= {"worker", "status", "doctor", "jobs", "gc"}


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_a_command_line_in_a_block_is_understood(
    cloudray: Cloudray,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(worker, "become_agent", lambda *_: None)
    ended = cloudray(*words)
    assert ended.code == 0, ended.errors


@pytest.mark.parametrize("words", NAMED, ids=" ".join)
def test_a_command_in_a_sentence_is_there_with_its_options(
    cloudray: Cloudray,  # noqa: F811 - the fixture
    words: tuple[str, ...],
) -> None:
    names = [word for word in words if re.fullmatch("[a-z]+", word)]
    ended = cloudray(*names, "--help")
    assert ended.code == 0, ended.errors
    assert f"Usage: cloudray {' '.join(names)} " in ended.output
    assert [word for word in words if word.startswith("--") and word not in ended.output] == []


def test_the_lines_that_make_a_key_give_one_that_commands_find(tmp_path: Path) -> None:
    (lines,) = [
        block for block in blocks(ROOT / "docs" / "security.md") if block[0].startswith("cloudray")
    ]
    program = tmp_path / "cloudray"
    command = [shlex.quote(sys.executable), "-m", "cloudray"]
    program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    program.chmod(0o700)
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["/bin/sh", "-euc", "\n".join([*lines, "cloudray key id"])],
        cwd=ROOT,
        env={
            "HOME": str(home),
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CLOUDRAY_CONFIG": "/dev/null",
        },
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in done.stdout.splitlines()[0]
    assert stat.S_IMODE((home / ".config" / "cloudray.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", {"address": "s3://bucket/prefix", "progress": False}),
        # What a machine offers is asked of clusters that begin on it.
        ("CLOUDRAY_ADDRESS= ", {"object_store_memory": 2 * 10**9, "resources": {"licence": 2}}),
    ],
)
def test_the_variables_that_are_shown_become_settings(
    tmp_path: Path, prefix: str, expected: dict[str, Any]
) -> None:
    (lines,) = blocks(ROOT / "docs" / "settings.md")
    done = subprocess.run(
        ["/bin/sh", "-euc", "\n".join([*lines, prefix + '"$PYTHON" -m cloudray settings --json'])],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PYTHON": sys.executable, "CLOUDRAY_CONFIG": "/dev/null"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name]["value"] for name in expected} == expected
