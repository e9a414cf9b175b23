"""Random numbers of a process: no task repeats what another has drawn."""

from __future__ import annotations

import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cloudray.randomness import SeedWatch
from cloudray.values.pickling import pickle_whole


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a watch puts in the place of functions goes when the test is over."""
    places: list[Any] = [random, np.random, np.random.mtrand]
    before = [(place, dict(vars(place))) for place in places]
    yield
    vars(random._inst).pop("seed", None)
    vars(random._inst).pop("setstate", None)
    for place, names in before:
        for name in ("seed", "setstate", "set_state"):
            if name in names:
                setattr(place, name, names[name])


def draw_python() -> list[int]:
    return [random.getrandbits(32) for _ in range(4)]


def draw_numpy() -> list[int]:
    return [int(number) for number in np.random.randint(0, 1 << 31, 4)]  # noqa: NPY002 - meant


def seed_python() -> None:
    random.seed(1)


def set_python() -> None:
    random.setstate(random.Random(1).getstate())


def seed_python_by_its_generator() -> None:
    random.random.__self__.seed(1)  # type: ignore[attr-defined]


def seed_numpy() -> None:
    np.random.seed(1)  # noqa: NPY002 - meant


def set_numpy() -> None:
    np.random.set_state(np.random.RandomState(1).get_state())  # noqa: NPY002 - meant


SEEDS = [
    (seed_python, draw_python),
    (set_python, draw_python),
    (seed_python_by_its_generator, draw_python),
    (seed_numpy, draw_numpy),
    (set_numpy, draw_numpy),
]
seeds = pytest.mark.parametrize(("seed", "draw"), SEEDS, ids=lambda found: found.__name__)


@seeds
def test_a_seed_works_as_ever(seed: Callable[[], None], draw: Callable[[], list[int]]) -> None:
    SeedWatch()
    seed()
    first = draw()
    seed()
    assert draw() == first


@seeds
def test_what_a_task_has_seeded_the_next_one_does_not_go_on_with(
    seed: Callable[[], None], draw: Callable[[], list[int]]
) -> None:
    watch = SeedWatch()
    seen = set()
    for _ in range(5):
        seed()
        watch.undo()
        seen.add(tuple(draw()))
    assert len(seen) == 5


def test_without_a_seed_nothing_is_touched() -> None:
    watch = SeedWatch()
    states = random.getstate(), repr(np.random.get_state())  # noqa: NPY002 - meant
    watch.undo()
    assert (random.getstate(), repr(np.random.get_state())) == states  # noqa: NPY002 - meant


def test_a_process_that_is_forked_begins_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and torch do not see to it themselves."""
    seeded: list[int] = []
    torch = ModuleType("torch")
    vars(torch)["seed"] = lambda: seeded.append(1)
    monkeypatch.setitem(sys.modules, "torch", torch)
    drawn = set()
    for _ in range(4):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                SeedWatch()
                os.write(writing, repr((draw_python(), draw_numpy(), seeded)).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        drawn.add(os.read(reading, 4096))
        os.close(reading)
    assert len(drawn) == 4
    assert all(b"[1]" in said for said in drawn)


def test_a_module_of_the_user_that_has_such_a_name_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = ModuleType("random")
    vars(theirs)["seed"] = len
    monkeypatch.setitem(sys.modules, "random", theirs)
    SeedWatch().undo()
    assert vars(theirs)["seed"] is len


@pytest.mark.parametrize(
    "function",
    [random.random, random.randint, np.random.rand, np.random.RandomState.rand],
    ids=["random", "randint", "rand", "a method of a class"],
)
def test_a_function_does_not_take_this_process_s_generator_along(function: Any) -> None:
    def draw() -> Any:
        return function

    pickled = pickle_whole(draw)
    assert len(pickled) < 1000
    arrived = pickle.loads(pickled)()
    owner = getattr(function, "__self__", None)
    assert getattr(arrived, "__self__", None) is owner


def test_seeding_functions_that_a_task_hands_on_arrive() -> None:
    SeedWatch()
    arrived = pickle.loads(pickle_whole((random.seed, np.random.set_state)))
    assert arrived == (random.seed, np.random.set_state)


@pytest.mark.parametrize("make", [random.Random, np.random.RandomState])
def test_a_generator_of_the_users_own_travels_as_it_is(make: Any) -> None:
    generator = make(7)
    generator.random()
    arrived = pickle.loads(pickle_whole(generator))
    assert arrived is not generator
    assert arrived.random() == generator.random()
