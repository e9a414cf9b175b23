"""What a failed task raises where its value is asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray.exceptions import RayTaskError
from tests.integration.gates import count

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.buckets]


class OutOfTeaError(Exception):
    """An exception of a user's, whose constructor takes something of its own."""

    def __init__(self, cups: int, *, kind: str) -> None:
        super().__init__(f"{cups} cups of {kind} too few")
        self.cups = cups
        self.kind = kind


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def fail(error_class: type[BaseException], *args: Any, **kwargs: Any) -> None:
    raise error_class(*args, **kwargs)


def test_the_error_is_a_task_error_and_of_the_users_class() -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero") as raised:
        ray.get(ray.remote(lambda: 1 / 0).remote())
    assert isinstance(raised.value, RayTaskError)
    assert isinstance(raised.value.cause, ZeroDivisionError)


def test_the_error_has_the_attributes_of_the_users() -> None:
    with pytest.raises(OutOfTeaError, match="3 cups of oolong too few") as raised:
        ray.get(fail.remote(OutOfTeaError, 3, kind="oolong"))
    assert (raised.value.cups, raised.value.kind) == (3, "oolong")


def test_the_error_carries_the_remote_traceback() -> None:
    @ray.remote
    def outer() -> None:
        def deep_inside() -> None:
            raise RuntimeError("far away")

        deep_inside()

    with pytest.raises(RuntimeError) as raised:
        ray.get(outer.remote())
    printed = str(raised.value)
    assert "outer()" in printed
    assert f'"{__file__}"' in printed
    assert "in deep_inside" in printed
    assert printed.endswith("RuntimeError: far away")
    assert "cloudray/executor" not in printed


def test_a_failed_task_does_not_disturb_its_neighbours() -> None:
    refs = [
        fail.remote(ValueError, number) if number % 3 else same.remote(number)
        for number in range(30)
    ]
    assert ray.get(refs[::3]) == list(range(0, 30, 3))
    for ref in refs[1::3]:
        with pytest.raises(ValueError):  # noqa: PT011 - which one, the number below says
            ray.get(ref)


def test_asking_again_raises_again() -> None:
    ref = fail.remote(KeyError, "gone")
    for _ in range(2):
        with pytest.raises(KeyError, match="gone"):
            ray.get(ref)


def test_a_failed_dependency_fails_the_tasks_that_need_it_and_they_never_run(
    tmp_path: Path,
) -> None:
    ran = tmp_path / "ran"

    @ray.remote
    def use(value: Any, *, more: Any = None) -> Any:
        ran.touch()
        return value, more

    failed = fail.remote(OutOfTeaError, 1, kind="mate")
    chain = use.remote(use.remote(use.remote(failed)))
    by_name = use.remote(1, more=failed)
    for ref in (chain, by_name):
        with pytest.raises(OutOfTeaError, match="mate") as raised:
            ray.get(ref)
        assert isinstance(raised.value, RayTaskError)
        assert raised.value.function_name == "fail"
    assert not ran.exists()


def test_a_failed_ref_inside_a_container_fails_nobody_who_does_not_ask() -> None:
    @ray.remote
    def ask(refs: list[ray.ObjectRef[Any]]) -> str:
        try:
            ray.get(refs)
        except OutOfTeaError as error:
            return f"made {error.kind} instead"
        return "unreachable"

    assert ray.get(ask.remote([fail.remote(OutOfTeaError, 2, kind="rooibos")])) == (
        "made rooibos instead"
    )


def test_an_error_that_passes_through_tasks_stays_what_it_was() -> None:
    @ray.remote
    def pass_on(refs: list[ray.ObjectRef[Any]]) -> Any:
        return ray.get(refs[0])

    ref = fail.remote(OutOfTeaError, 4, kind="sencha")
    for _ in range(3):
        ref = pass_on.remote([ref])
    with pytest.raises(OutOfTeaError, match="4 cups") as raised:
        ray.get(ref)
    assert raised.value.cups == 4
    assert type(raised.value).__name__ == "RayTaskError(OutOfTeaError)"


def test_an_exception_that_is_returned_is_a_value() -> None:
    assert ray.get(same.remote(ValueError("fine"))).args == ("fine",)


def test_an_exception_that_cannot_be_pickled_still_tells_its_story() -> None:
    @ray.remote
    def fail_with_lock() -> None:
        error = OutOfTeaError(5, kind="matcha")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(RayTaskError, match="5 cups of matcha too few"):
        ray.get(fail_with_lock.remote())


def test_a_large_exception_arrives_whole() -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its argument is compared below
        ray.get(fail.remote(ValueError, bytes(1_000_000)))
    assert raised.value.args == (bytes(1_000_000),)


def test_a_keyboard_interrupt_in_a_task_is_no_interrupt_of_the_driver() -> None:
    with pytest.raises(RayTaskError, match="KeyboardInterrupt"):
        ray.get(fail.remote(KeyboardInterrupt))


def test_an_error_in_a_coroutine_is_an_error_of_the_task() -> None:
    @ray.remote
    async def fail_later() -> None:
        raise OutOfTeaError(6, kind="darjeeling")

    with pytest.raises(OutOfTeaError, match="darjeeling"):
        ray.get(fail_later.remote())


def test_a_result_that_cannot_be_pickled_is_named() -> None:
    @ray.remote
    def open_lock() -> dict[str, Any]:
        return {"lock": threading.Lock()}

    with pytest.raises(TypeError, match=r"its member \['lock'\] is a _thread.lock"):
        ray.get(open_lock.remote())


def test_the_number_of_results_must_be_the_one_promised() -> None:
    @ray.remote(num_returns=3)
    def two() -> tuple[int, int]:
        return 1, 2

    for ref in two.remote():
        with pytest.raises(ValueError, match="num_returns=3 but returned 2 values"):
            ray.get(ref)


def test_several_results_must_be_a_sequence() -> None:
    @ray.remote(num_returns=2)
    def one() -> int:
        return 1

    with pytest.raises(TypeError, match="num_returns=2 but returned a value of type int"):
        ray.get(one.remote())


def test_every_result_of_a_failed_task_raises() -> None:
    @ray.remote(num_returns=2)
    def fail_twice() -> tuple[int, int]:
        raise OutOfTeaError(7, kind="assam")

    for ref in fail_twice.remote():
        with pytest.raises(OutOfTeaError, match="assam"):
            ray.get(ref)


def test_recursion_without_an_end_is_an_error_like_others() -> None:
    @ray.remote
    def forever(number: int) -> int:
        def deeper(number: int) -> int:
            return deeper(number + 1)

        return deeper(number)

    with pytest.raises(RecursionError, match="maximum recursion depth exceeded"):
        ray.get(forever.remote(0))


def test_an_exception_is_final_by_default(tmp_path: Path) -> None:
    @ray.remote
    def fail_and_count() -> None:
        count(tmp_path / "runs")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it has no message
        ray.get(fail_and_count.remote())
    assert count(tmp_path / "runs") == 2


@pytest.mark.parametrize("retried", [True, [ZeroDivisionError, LookupError]])
def test_exceptions_are_retried_when_asked_for(tmp_path: Path, retried: Any) -> None:
    @ray.remote(retry_exceptions=retried)
    def third_time_lucky() -> str:
        if count(tmp_path / "runs") < 3:
            raise KeyError("not yet")
        return "well"

    assert ray.get(third_time_lucky.remote()) == "well"


def test_exceptions_of_other_classes_are_not_retried(tmp_path: Path) -> None:
    @ray.remote(retry_exceptions=[ZeroDivisionError])
    def fail_and_count() -> None:
        count(tmp_path / "runs")
        raise KeyError("never mind")

    with pytest.raises(KeyError, match="never mind"):
        ray.get(fail_and_count.remote())
    assert count(tmp_path / "runs") == 2


@pytest.mark.parametrize("max_retries", [0, 2])
def test_retries_end_when_they_are_used_up(tmp_path: Path, max_retries: int) -> None:
    @ray.remote(max_retries=max_retries, retry_exceptions=True)
    def fail_and_count() -> None:
        raise KeyError(count(tmp_path / "runs"))

    with pytest.raises(KeyError) as raised:
        ray.get(fail_and_count.remote())
    assert raised.value.args == (max_retries + 1,)


def test_a_task_can_tell_that_it_is_tried_again() -> None:
    @ray.remote(retry_exceptions=True)
    def attempt() -> int:
        number = ray.get_runtime_context().get_attempt_number()
        if number < 2:
            raise ValueError(number)
        return number

    assert ray.get(attempt.remote()) == 2
