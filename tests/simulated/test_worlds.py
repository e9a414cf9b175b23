"""Worlds from seeds: whatever goes wrong in them, nothing is lost and everybody agrees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Worlds that continuous integration runs, in blocks.
BLOCKS, SEEDS = 4, 60
#: Each mutant is to be caught within so many.
MUTANT_SEEDS = 200


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Sets of strings are gone through in the order of their hashes, which are to be the same.
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_world_violates_an_invariant(block: int) -> None:
    done = run("cloudray.testing.simulate", "--first", str(block * SEEDS), "--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert f"{SEEDS} worlds" in done.stdout


def test_a_seed_makes_the_same_world_again() -> None:
    first, second = (run("cloudray.testing.simulate", "--seed", "7", "--history") for _ in "12")
    told = first.stdout.splitlines()[:-1]
    assert len(told) > 50
    assert told == second.stdout.splitlines()[:-1]


@pytest.mark.parametrize("mutant", ["overwritten", "nonce", "moved", "claims"])
def test_a_mutant_is_caught(mutant: str) -> None:
    done = run("tests.simulated.mutants", mutant, "--seeds", str(MUTANT_SEEDS), "--failures", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    # By its seed, with all that happened before it.
    assert "seed " in done.stdout, done.stderr
    assert "creates cluster" in done.stdout
