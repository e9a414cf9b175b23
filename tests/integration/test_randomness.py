"""Random numbers of tasks: no two share a stream, whatever a program or another task has seeded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.drivers import run_driver

START = """
        import os, random, time
        import numpy as np
        from random import random as draw
        from numpy.random import randint
        import cloudray as ray

        random.seed(1)
        np.random.seed(1)
        ray.init(num_cpus=2)

        def meet(number):
            # Both executors take part.
            open(f"in-{number}", "w").close()
            while not (os.path.exists("in-0") and os.path.exists("in-1")):
                time.sleep(0.001)

        def distinct(results):
            return [len(set(column)) for column in zip(*results)]
"""


@pytest.mark.parametrize(
    "numbers",
    [
        "random.random(), np.random.rand()",
        # Methods of a generator, which would take a copy of it along.
        "draw(), int(randint(1 << 60))",
    ],
)
def test_tasks_draw_different_numbers(tmp_path: Path, numbers: str) -> None:
    ended = run_driver(
        START
        + f"""
        @ray.remote
        def numbers(number):
            meet(number)
            return {numbers}

        print(distinct(ray.get([numbers.remote(number) for number in range(20)])))
        """,
        tmp_path,
    )
    assert ended.lines() == ["[20, 20]"]


def test_a_seed_holds_for_the_task_that_sets_it_and_for_no_other(tmp_path: Path) -> None:
    ended = run_driver(
        START
        + """
        @ray.remote
        def seeded(number):
            random.seed(7)
            np.random.seed(7)
            meet(number)
            return random.random(), np.random.rand()

        @ray.remote
        def unseeded(_):
            return random.random(), np.random.rand()

        first = [seeded.remote(number) for number in range(2)]
        print(distinct(ray.get(first)))
        mixed = [f.remote(n) for n in range(10) for f in (seeded, unseeded)]
        print(distinct(ray.get(mixed)[0::2]), distinct(ray.get(mixed)[1::2]))
        """,
        tmp_path,
    )
    assert ended.lines() == ["[1, 1]", "[1, 1] [10, 10]"]


def test_a_task_that_is_tried_again_draws_others(tmp_path: Path) -> None:
    ended = run_driver(
        START
        + """
        @ray.remote(retry_exceptions=True, max_retries=3)
        def drawn_at_last():
            with open("drawn", "a") as file:
                print(draw(), random.random(), np.random.rand(), file=file)
            if len(open("drawn").readlines()) == 2:
                os._exit(1)
            if len(open("drawn").readlines()) < 4:
                raise ValueError("again")

        ray.get(drawn_at_last.remote())
        print(len(set(open("drawn").read().split())))
        """,
        tmp_path,
    )
    assert ended.lines() == ["12"]
