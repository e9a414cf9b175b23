"""Options that change how a task runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.clusters import Embedded
from tests.integration.gates import meet, wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def process() -> int:
    return os.getpid()


@ray.remote
def assigned() -> dict[str, float]:
    return ray.get_runtime_context().get_assigned_resources()


@ray.remote
def wait_until(gate: Path) -> str:
    wait_for(gate)
    return gate.name


@ray.remote
def meet_others(folder: Path, name: str, *others: str) -> str:
    meet(folder, name, *others)
    return name


@ray.remote
def alone(folder: Path) -> bool:
    """Whether nobody else is in this function at the same time."""
    mine = folder / f"inside-{os.getpid()}"
    mine.touch()
    try:
        return all(len(list(folder.glob("inside-*"))) == 1 for _ in range(50))
    finally:
        mine.unlink()


def meet_all(function: Any, folder: Path, size: int) -> list[str]:
    """The names of `size` tasks that all ran at the same time."""
    names = [str(number) for number in range(size)]
    met: list[str] = ray.get([function.remote(folder, name, *names) for name in names])
    return met


@pytest.mark.usefixtures("cluster")
def test_two_tasks_run_at_once_on_two_cpus(tmp_path: Path) -> None:
    assert meet_all(meet_others, tmp_path, 2) == ["0", "1"]


@pytest.mark.usefixtures("cluster")
def test_four_tasks_of_half_a_cpu_run_at_once_on_two(tmp_path: Path) -> None:
    assert len(meet_all(meet_others.options(num_cpus=0.5), tmp_path, 4)) == 4


@pytest.mark.usefixtures("cluster")
def test_a_task_of_two_cpus_has_them_for_itself(tmp_path: Path) -> None:
    refs = [alone.options(num_cpus=2).remote(tmp_path) for _ in range(8)]
    assert all(ray.get(refs))


@pytest.mark.usefixtures("cluster")
def test_a_task_of_no_cpus_runs_though_all_are_busy(tmp_path: Path) -> None:
    busy = [wait_until.remote(tmp_path / "gate") for _ in range(2)]
    assert ray.get(same.options(num_cpus=0).remote("passed")) == "passed"
    tmp_path.joinpath("gate").touch()
    ray.get(busy)


def test_a_task_holds_what_it_asked_for(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=2, num_gpus=2, memory=2**30, resources={"tea": 3})
    wanted: Any = {"num_cpus": 0.5, "num_gpus": 1, "memory": 2**20, "resources": {"tea": 0.25}}
    found = ray.get(assigned.options(**wanted).remote())
    assert found == {"CPU": 0.5, "GPU": 1, "memory": 2**20, "tea": 0.25}
    assert ray.get(assigned.remote()) == {"CPU": 1}


@pytest.mark.parametrize(
    ("offer", "demand"),
    [
        ({"num_gpus": 1}, {"num_gpus": 1}),
        ({"memory": 3 * 2**20}, {"memory": 2 * 2**20}),
        ({"resources": {"tea": 1}}, {"resources": {"tea": 0.6}}),
    ],
    ids=["gpus", "memory", "custom"],
)
def test_tasks_take_turns_at_what_there_is_once(
    own_cluster: Callable[..., Embedded],
    tmp_path: Path,
    offer: dict[str, Any],
    demand: dict[str, Any],
) -> None:
    own_cluster(num_cpus=4, **offer)
    refs = [alone.options(**demand).remote(tmp_path) for _ in range(6)]
    assert all(ray.get(refs))


@pytest.mark.usefixtures("cluster")
def test_what_no_machine_has_is_waited_for() -> None:
    refs = [
        same.options(num_cpus=64).remote(1),
        same.options(resources={"unobtainium": 1}).remote(1),
    ]
    assert ray.get(same.remote("others pass")) == "others pass"
    assert ray.wait(refs, timeout=0.3) == ([], refs)
    for ref in refs:
        ray.cancel(ref)


@pytest.mark.usefixtures("cluster")
def test_num_returns_of_several_is_a_list_of_refs() -> None:
    @ray.remote(num_returns=3)
    def split(text: str) -> list[str]:
        return list(text)

    first, second, third = split.remote("abc")
    assert ray.get([third, first, second]) == ["c", "a", "b"]
    assert ray.get(split.options(num_returns=2).remote("xy")) == ["x", "y"]
    assert ray.get(split.options(num_returns=1).remote("xy")) == ["x", "y"]


@pytest.mark.usefixtures("cluster")
def test_results_may_come_from_a_generator() -> None:
    @ray.remote(num_returns=2)
    def count_up() -> Any:
        yield 1
        yield 2

    assert ray.get(count_up.remote()) == [1, 2]


@pytest.mark.usefixtures("cluster")
def test_large_results_beside_small_ones_arrive() -> None:
    @ray.remote(num_returns=3)
    def mixed() -> tuple[int, bytes, str]:
        return 1, bytes(500_000), "small"

    assert ray.get(mixed.remote()) == [1, bytes(500_000), "small"]


@pytest.mark.usefixtures("cluster")
def test_num_returns_of_zero_returns_none_and_runs(tmp_path: Path) -> None:
    @ray.remote(num_returns=0)
    def touch(path: Path) -> None:
        path.touch()

    assert touch.remote(tmp_path / "touched") is None
    wait_for(tmp_path / "touched")


def test_max_calls_replaces_the_process(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)

    @ray.remote(max_calls=2)
    def where() -> int:
        return os.getpid()

    pids = [ray.get(where.remote()) for _ in range(6)]
    assert pids[::2] == pids[1::2]
    assert len(set(pids)) == 3


def test_without_max_calls_a_process_is_used_again(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)
    assert len(set(ray.get([process.remote() for _ in range(20)]))) == 1


@pytest.mark.usefixtures("cluster")
def test_environment_variables_reach_the_task_and_no_other() -> None:
    @ray.remote
    def colour() -> str | None:
        return os.environ.get("COLOUR")

    red = colour.options(runtime_env={"env_vars": {"COLOUR": "red"}})
    blue = colour.options(runtime_env={"env_vars": {"COLOUR": "blue"}})
    refs = [option.remote() for option in (red, colour, blue, red)]
    assert ray.get(refs) == ["red", None, "blue", "red"]
    assert "COLOUR" not in os.environ


@pytest.mark.usefixtures("cluster")
def test_environment_variables_build_on_what_is_there() -> None:
    @ray.remote
    def path() -> str:
        return os.environ["PATH"]

    extended = path.options(runtime_env={"env_vars": {"PATH": "/tea:${PATH}"}})
    assert ray.get(extended.remote()) == f"/tea:{ray.get(path.remote())}"


def test_environment_variables_are_inherited(own_cluster: Callable[..., Embedded]) -> None:
    """From the job to its tasks, and from them to theirs; the nearest wins."""
    own_cluster(num_cpus=1, runtime_env={"env_vars": {"TEA": "job", "CUP": "job"}})

    @ray.remote
    def look() -> tuple[Any, ...]:
        return tuple(os.environ.get(name) for name in ("TEA", "CUP", "SPOON"))

    @ray.remote
    def parent() -> list[tuple[Any, ...]]:
        own = look.options(runtime_env={"env_vars": {"SPOON": "child"}})
        return ray.get([look.remote(), own.remote()])

    assert ray.get(look.remote()) == ("job", "job", None)
    changed = parent.options(runtime_env={"env_vars": {"CUP": "parent"}})
    assert ray.get(changed.remote()) == [("job", "parent", None), ("job", "parent", "child")]
    assert ray.get_runtime_context().runtime_env == {"env_vars": {"TEA": "job", "CUP": "job"}}
    assert "TEA" not in os.environ


@pytest.mark.usefixtures("no_cluster")
def test_what_a_runtime_env_cannot_do_is_refused_by_init_too() -> None:
    with pytest.raises(ValueError, match="'pip'"):
        ray.init(runtime_env={"pip": ["tea"]})
    assert not ray.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_a_name_is_what_messages_call_the_task() -> None:
    @ray.remote(name="kettle")
    def boil() -> None:
        raise ValueError

    for function, name in ((boil, "kettle"), (boil.options(name="pot"), "pot")):
        with pytest.raises(ValueError, match=rf"cloudray::{name}\(\)"):
            ray.get(function.remote())


@pytest.mark.usefixtures("cluster")
def test_options_of_a_call_leave_the_function_as_it_is() -> None:
    half = assigned.options(num_cpus=0.5)
    quarter = half.options(num_cpus=0.25)
    found = ray.get([function.remote() for function in (quarter, half, assigned)])
    assert [resources["CPU"] for resources in found] == [0.25, 0.5, 1]


@pytest.mark.usefixtures("cluster")
def test_options_build_on_those_of_the_decorator() -> None:
    @ray.remote(num_cpus=0.5, name="tea")
    def who() -> tuple[Any, Any]:
        context = ray.get_runtime_context()
        return context.get_task_name(), context.get_assigned_resources()["CPU"]

    assert ray.get(who.options(num_cpus=0.25).remote()) == ("tea", 0.25)


@pytest.mark.usefixtures("cluster")
def test_what_only_clusters_of_many_machines_need_is_accepted() -> None:
    spread = same.options(scheduling_strategy="SPREAD", enable_task_events=False)
    assert ray.get(spread.remote(1)) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_cpu": 1}, ValueError, "Invalid option keyword num_cpu for remote functions"),
        ({"max_retries": 1.5}, TypeError, r"must be \(int, NoneType\), but received type float"),
        ({"num_cpus": -1}, ValueError, "The quantity of resource num_cpus cannot be negative"),
        ({"resources": {"CPU": 1}}, ValueError, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ({"runtime_env": {"pip": ["tea"]}}, ValueError, "'pip'"),
    ],
)
def test_options_are_checked_where_they_are_given(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ray.remote(**options)
    with pytest.raises(error, match=message):
        same.options(**options)


def test_max_calls_is_no_option_of_a_call() -> None:
    with pytest.raises(ValueError, match=r"'max_calls' is not supported in '.options\(\)'"):
        same.options(max_calls=1)  # type: ignore[call-overload]
