from __future__ import annotations

import pytest

from cloudray.api.wording import did_you_mean, nearest, wrong_type

KNOWN = ["num_cpus", "num_gpus", "progress", "object_store_memory"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("num_cpu", "num_cpus"),
        ("cpus", "num_cpus"),
        ("NUM_CPUS", "num_cpus"),
        ("num-gpus", "num_gpus"),
        ("progres", "progress"),
        ("object_memory", "object_store_memory"),
    ],
)
def test_the_nearest_name_is_found(word: str, meant: str) -> None:
    assert nearest(word, KNOWN) == meant


@pytest.mark.parametrize("word", ["", "colour", "dashboard", "bench"])
def test_a_name_that_is_like_none_is_not_guessed_at(word: str) -> None:
    assert nearest(word, KNOWN) is None
    assert did_you_mean(word, KNOWN) == ""


def test_a_name_keeps_its_case() -> None:
    assert nearest("home", ["HOME"]) == "HOME"


def test_a_wrong_type_is_told_in_rays_words() -> None:
    error = wrong_type("num_cpus", (float, int, type(None)), "2")
    assert str(error) == (
        "The type of keyword 'num_cpus' must be (float, int, NoneType), but received type str"
    )
