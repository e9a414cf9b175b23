"""Random programs give what plain Python gives."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest

from tests.integration.random_programs import (
    InPlainPython,
    OnCloudray,
    Program,
    run,
    write_program,
)

SEEDS = range(200)
FEATURES = (
    "task",
    "several returns",
    "nested task",
    "put",
    "get",
    "container of refs",
    "wait",
    "failure",
    "retry",
    "crash",
    "large value",
)


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    return [write_program(seed) for seed in SEEDS]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("cluster")
def test_a_program_gives_what_plain_python_gives(programs: list[Program], seed: int) -> None:
    program = programs[seed]
    expected, given = run(program, InPlainPython()), run(program, OnCloudray())
    assert given == expected, f"seed {seed}:\n{program}"


def test_a_seed_always_writes_the_same_program(programs: list[Program]) -> None:
    assert [str(write_program(seed)) for seed in SEEDS] == [str(program) for program in programs]


def test_programs_are_of_some_size(programs: list[Program]) -> None:
    assert median(program.values for program in programs) >= 30


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_in_many_programs(programs: list[Program], feature: str) -> None:
    counts = Counter(kind for program in programs for kind in program.kinds)
    assert counts[feature] >= 40
    assert set(counts) == set(FEATURES)
