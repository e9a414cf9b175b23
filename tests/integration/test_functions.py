"""Which functions can be remote, how they travel, and how their calls are checked."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.drivers import run_driver

OFFSET = 40


@ray.remote
def add_offset(number: int) -> int:
    """Add OFFSET."""
    return number + OFFSET


@ray.remote
def greet(greeting: str, name: str = "nobody", *more: str, mark: str, **options: Any) -> Any:
    return greeting, name, more, mark, options


#: For a type checker their wrong calls are errors, too.
BARE: Any = add_offset
FULL: Any = greet


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_function_uses_the_globals_of_its_module() -> None:
    assert ray.get(add_offset.remote(2)) == 42


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_function_uses_what_it_closes_over() -> None:
    cups = [1, 2]

    @ray.remote
    def count_cups(more: int) -> int:
        return len(cups) + more

    assert ray.get(count_cups.remote(1)) == 3


@pytest.mark.usefixtures("cluster")
def test_remote_is_a_call_too() -> None:
    double = ray.remote(lambda number: 2 * number)
    assert ray.get(double.remote(4)) == 8
    assert ray.get(ray.remote(num_cpus=0.5)(len).remote("abcd")) == 4
    assert ray.get(ray.remote(functools.partial(pow, 2)).remote(5)) == 32


@pytest.mark.usefixtures("cluster")
def test_an_object_that_can_be_called_is_a_function() -> None:
    class Adder:
        def __init__(self, offset: int) -> None:
            self.offset = offset

        def __call__(self, number: int) -> int:
            return number + self.offset

    assert ray.get(ray.remote(Adder(3)).remote(4)) == 7


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_a_coroutine_function_runs_to_its_end() -> None:
    @ray.remote
    async def later(value: int) -> int:
        return value

    assert ray.get(later.remote(1)) == 1


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_positional_named_and_default_arguments_arrive() -> None:
    assert ray.get(greet.remote("hi", mark="!")) == ("hi", "nobody", (), "!", {})
    assert ray.get(greet.remote("hi", "you", "and", "you", mark="?", loud=True)) == (
        "hi",
        "you",
        ("and", "you"),
        "?",
        {"loud": True},
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (BARE.remote, "missing 1 required positional argument: 'number'"),
        (lambda: BARE.remote(1, 2), "takes 1 positional argument but 2 were given"),
        (lambda: BARE.remote(1, tea=2), "unexpected keyword argument 'tea'"),
        (lambda: BARE.remote(1, number=2), "multiple values for argument 'number'"),
        (lambda: FULL.remote("hi"), "missing 1 required keyword-only argument: 'mark'"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_arguments_are_checked_at_the_call(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.usefixtures("cluster")
def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(TypeError, match=r"argument 'lock' of greet: it is a _thread\.lock"):
        FULL.remote("hi", mark="!", lock=threading.Lock())


@pytest.mark.usefixtures("cluster")
def test_a_variable_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    @ray.remote
    def use_lock() -> bool:
        return lock.locked()

    with pytest.raises(TypeError, match=r"closure variable 'lock' is a _thread.lock"):
        _ = use_lock.remote()


def test_a_function_keeps_its_name_and_its_documentation() -> None:
    assert add_offset.__name__ == "add_offset"  # type: ignore[attr-defined]
    assert add_offset.__doc__ == "Add OFFSET."
    assert repr(add_offset) == "<remote function add_offset>"


def test_a_remote_function_cannot_be_called_directly() -> None:
    with pytest.raises(TypeError, match=r"Instead of running 'add_offset\(\)', try"):
        add_offset(1)  # type: ignore[operator]


def test_a_class_cannot_be_remote_yet() -> None:
    with pytest.raises(TypeError, match="Kettle is a class"):

        @ray.remote
        class Kettle:
            pass


@pytest.mark.parametrize("wrong", [ray.remote, lambda: ray.remote(3)])  # type: ignore[call-overload]
def test_remote_says_how_it_is_applied(wrong: Any) -> None:
    with pytest.raises(TypeError, match="decorator must be applied"):
        wrong()


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_the_newest_definition_runs() -> None:
    found = []
    for version in (1, 2):

        @ray.remote
        def current() -> int:
            return version  # noqa: B023 - pickled at its first call, before it changes

        found.append(ray.get(current.remote()))
    assert found == [1, 2]


@pytest.mark.usefixtures("cluster")
def test_a_function_over_100_mib_is_refused() -> None:
    ballast = bytes(101 << 20)

    @ray.remote
    def heavy() -> int:
        return len(ballast)

    with pytest.raises(ValueError, match=r"The remote function .*heavy is too large \(101 MiB"):
        _ = heavy.remote()


@pytest.mark.usefixtures("cluster")
def test_a_function_over_10_mib_is_warned_of_and_runs() -> None:
    ballast = bytes(11 << 20)

    @ray.remote
    def heavy() -> int:
        return len(ballast)

    with pytest.warns(UserWarning, match=r"heavy is very large \(11 MiB\)") as caught:
        ref = heavy.remote()
    assert caught[0].filename == __file__
    assert ray.get(ref) == 11 << 20


def test_modules_beside_the_script_are_found(tmp_path: Path) -> None:
    tmp_path.joinpath("kitchen.py").write_text("def kettle():\n    return 'boils'\n")
    program = """
        import cloudray as ray
        import kitchen

        @ray.remote
        def use():
            return kitchen.kettle()

        print(ray.get(use.remote()), ray.get(ray.remote(kitchen.kettle).remote()))
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run_driver(program, tmp_path, cwd=elsewhere).out == "boils boils\n"


def test_what_the_driver_added_to_its_path_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "added"
    folder.mkdir()
    folder.joinpath("kitchen.py").write_text("TEA = 'oolong'\n")
    program = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        import cloudray as ray

        @ray.remote
        def use():
            import kitchen
            return kitchen.TEA

        print(ray.get(use.remote()))
    """
    assert run_driver(program, tmp_path).out == "oolong\n"


def test_tasks_start_in_the_drivers_folder(tmp_path: Path) -> None:
    program = """
        import os
        import cloudray as ray

        print(ray.get(ray.remote(os.getcwd).remote()))
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run_driver(program, tmp_path, cwd=elsewhere).out == f"{elsewhere}\n"


def test_a_module_in_the_drivers_folder_hides_none_that_cloudray_needs(tmp_path: Path) -> None:
    """The script lies elsewhere, so the driver itself does not see them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("queue", "selectors", "resource", "signal", "random"):
        elsewhere.joinpath(f"{name}.py").write_text("raise ImportError('not this one')\n")
    program = """
        import cloudray as ray

        @ray.remote
        def use():
            import random
            return random.choice([1])

        print(ray.get(use.remote()))
    """
    assert run_driver(program, tmp_path, cwd=elsewhere).out == "1\n"


def test_pythonpath_of_a_task_hides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "added"
    folder.mkdir()
    folder.joinpath("kitchen.py").write_text("TEA = 'oolong'\n")
    program = f"""
        import cloudray as ray

        @ray.remote(runtime_env={{"env_vars": {{"PYTHONPATH": {str(folder)!r}}}}})
        def use():
            import kitchen
            return kitchen.TEA

        print(ray.get(use.remote()))
    """
    assert run_driver(program, tmp_path).out == "oolong\n"


def test_classes_of_the_script_stay_the_same_classes(tmp_path: Path) -> None:
    program = """
        from dataclasses import dataclass
        import cloudray as ray

        @dataclass
        class Cup:
            tea: str

        class EmptyError(Exception):
            pass

        @ray.remote
        def pour(cup):
            assert isinstance(cup, Cup)
            if not cup.tea:
                raise EmptyError("no tea")
            return Cup(cup.tea * 2)

        print(ray.get(pour.remote(Cup("o"))) == Cup("oo"))
        try:
            ray.get(pour.remote(Cup("")))
        except EmptyError as error:
            print("caught", error.args)
    """
    assert run_driver(program, tmp_path).lines() == ["True", "caught ('no tea',)"]


def test_a_task_does_not_run_the_script_again(tmp_path: Path) -> None:
    program = """
        import cloudray as ray

        print("once")

        @ray.remote
        def main_name():
            return __name__

        print(ray.get(main_name.remote()))
    """
    assert run_driver(program, tmp_path).lines() == ["once", "__main__"]


@pytest.mark.usefixtures("cluster")
def test_executors_are_processes_of_their_own() -> None:
    assert ray.get(ray.remote(os.getpid).remote()) != os.getpid()
