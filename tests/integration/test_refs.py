"""References: values that may not exist yet, as values."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.integration.drivers import environment, run_driver
from tests.integration.gates import wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def fail() -> None:
    raise LookupError("lost")


@ray.remote
def wait_until(gate: Path) -> str:
    wait_for(gate)
    return gate.name


@pytest.mark.usefixtures("cluster")
def test_refs_to_different_values_differ() -> None:
    refs = [same.remote(1), same.remote(1), ray.put(1), ray.put(1)]
    assert len(set(refs)) == 4


@pytest.mark.usefixtures("cluster")
def test_a_ref_is_a_key() -> None:
    first, second = same.remote(1), same.remote(2)
    names = {first: "first", second: "second"}
    (found,) = ray.get(ray.put([second]))
    assert names[found] == "second"


@pytest.mark.usefixtures("cluster")
def test_a_ref_survives_pickle() -> None:
    ref = same.remote("value")
    found = pickle.loads(pickle.dumps(ref))
    assert (found, hash(found)) == (ref, hash(ref))
    assert ray.get(found) == "value"


@pytest.mark.usefixtures("cluster")
def test_a_ref_survives_as_digits_and_as_bytes() -> None:
    ref = same.remote("value")
    assert re.fullmatch("[0-9a-f]{58}", ref.hex())
    assert ray.get(ray.ObjectRef.from_hex(ref.hex())) == "value"
    assert ray.get(ray.ObjectRef.from_binary(ref.binary())) == "value"
    shown = re.fullmatch(r"ObjectRef\((....)…(\w+), done, \d+ B\)", repr(ref))
    assert shown is not None
    assert shown[1] in ref.hex()
    assert ref.hex().endswith(shown[2])


@pytest.mark.usefixtures("cluster")
def test_a_copy_of_a_ref_is_the_ref() -> None:
    ref = same.remote(1)
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref


@pytest.mark.usefixtures("cluster")
def test_a_ref_knows_its_job_and_its_task() -> None:
    @ray.remote(num_returns=2)
    def who() -> tuple[str | None, str]:
        context = ray.get_runtime_context()
        return context.get_task_id(), context.get_job_id()

    first, second = who.remote()
    assert ray.get([first, second]) == [first.task_id(), first.job_id()]
    assert second.task_id() == first.task_id()
    assert first.job_id() == ray.get_runtime_context().get_job_id()


@pytest.mark.usefixtures("cluster")
def test_object_id_is_another_name() -> None:
    assert ray.ObjectID is ray.ObjectRef
    assert isinstance(ray.put(1), ray.ObjectID)


@pytest.mark.usefixtures("cluster")
def test_a_ref_as_argument_is_its_value() -> None:
    @ray.remote
    def add(first: int, *, second: int) -> int:
        return first + second

    total = add.remote(ray.put(1), second=same.remote(2))
    assert ray.get(add.remote(total, second=4)) == 7


@pytest.mark.usefixtures("cluster")
def test_one_ref_may_be_given_twice() -> None:
    @ray.remote
    def pair(*values: Any, **named: Any) -> Any:
        return values, named

    ref = same.remote("x")
    assert ray.get(pair.remote(ref, 1, ref, a=ref)) == (("x", 1, "x"), {"a": "x"})


@pytest.mark.usefixtures("cluster")
def test_refs_inside_containers_stay_refs() -> None:
    @ray.remote
    def classes(container: Any) -> list[str]:
        return [type(item).__name__ for item in container]

    inner = same.remote(1)
    for container in ([inner, 2], (inner, 2), {inner: 1, 2: 2}):
        assert ray.get(classes.remote(container)) == ["ObjectRef", "int"]


@pytest.mark.usefixtures("cluster")
def test_a_ref_inside_a_value_may_be_unfinished(tmp_path: Path) -> None:
    box = ray.get(same.remote([wait_until.remote(tmp_path / "gate")]))
    assert ray.wait(box, timeout=0) == ([], box)
    tmp_path.joinpath("gate").touch()
    assert ray.get(box) == ["gate"]


@pytest.mark.usefixtures("cluster")
def test_boxes_in_boxes_open_one_by_one() -> None:
    box = same.remote("kernel")
    for _ in range(5):
        box = same.remote([box])
    for _ in range(5):
        (box,) = ray.get(box)
    assert ray.get(box) == "kernel"


@pytest.mark.usefixtures("cluster")
def test_a_task_may_return_a_ref() -> None:
    @ray.remote
    def delegate(value: Any) -> ray.ObjectRef[Any]:
        ref: ray.ObjectRef[Any] = same.remote(value)
        return ref

    found = ray.get(delegate.remote("value"))
    assert ray.get(found) == "value"


@pytest.mark.usefixtures("cluster")
def test_a_value_lives_as_long_as_a_ref_to_it_is_stored() -> None:
    def stored() -> ray.ObjectRef[Any]:
        return ray.put([same.remote(bytes(500_000)), ray.put("small")])

    outer = stored()
    for number in range(50):
        same.remote(number)
    large, small = ray.get(outer)
    assert ray.get([large, small]) == [bytes(500_000), "small"]


@pytest.mark.usefixtures("cluster")
def test_a_future_ends_with_the_value(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = wait_until.remote(gate).future()
    assert isinstance(future, Future)
    assert not future.done()
    gate.touch()
    assert future.result() == "gate"


@pytest.mark.usefixtures("cluster")
def test_a_future_ends_with_the_error() -> None:
    assert isinstance(fail.remote().future().exception(), LookupError)


@pytest.mark.usefixtures("cluster")
def test_a_future_of_a_value_that_is_there_is_done() -> None:
    ref = same.remote(1)
    ray.get(ref)
    assert ref.future().done()
    assert ray.put(2).future().result() == 2


@pytest.mark.usefixtures("cluster")
def test_a_callback_of_a_future_may_use_the_cluster() -> None:
    found: list[int] = []
    called = threading.Event()

    def then(future: Future[int]) -> None:
        found.append(ray.get(same.remote(future.result() + 1)))
        called.set()

    same.remote(1).future().add_done_callback(then)
    assert called.wait(30)
    assert found == [2]


@pytest.mark.usefixtures("cluster")
def test_many_futures_end_while_nobody_waits() -> None:
    futures = [same.remote(number).future() for number in range(200)]
    assert [future.result() for future in futures] == list(range(200))


@pytest.mark.usefixtures("cluster")
def test_a_ref_can_be_awaited() -> None:
    async def main() -> Any:
        value = await same.remote(1)
        with pytest.raises(LookupError, match="lost"):
            await fail.remote()
        return value, await asyncio.wrap_future(same.remote(2).future())

    assert asyncio.run(main()) == (1, 2)


@pytest.mark.usefixtures("cluster")
def test_refs_are_gathered_on_an_event_loop() -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*[same.remote(number) for number in range(50)])

    assert asyncio.run(main()) == list(range(50))


@pytest.mark.usefixtures("cluster")
def test_other_coroutines_run_while_one_awaits_a_ref(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def open_gate() -> None:
        gate.touch()

    async def main() -> Any:
        found, _ = await asyncio.gather(wait_until.remote(gate), open_gate())
        return found

    assert asyncio.run(main()) == "gate"


@pytest.mark.usefixtures("cluster")
def test_awaiting_can_be_given_up(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ref = wait_until.remote(gate)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref.as_future(), 0.01)

    asyncio.run(main())
    gate.touch()
    assert ray.get(ref) == "gate"


def test_a_ref_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="29 bytes long, but this is 1"):
        _ = ray.ObjectRef.from_hex("00")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster in a directory, with an agent."""
    url = tmp_path.joinpath("cluster").as_uri()
    command = [sys.executable, "-m", "cloudray", "worker", url, "--num-cpus", "1"]
    with subprocess.Popen(command, env=environment()) as agent:
        yield url
        agent.terminate()
        agent.wait()


def test_a_ref_written_down_by_one_driver_is_read_by_another(address: str, tmp_path: Path) -> None:
    submit = """
        import cloudray as ray
        ray.init({address!r})

        @ray.remote
        def answer(stored, number):
            return stored[0] + number

        print(answer.remote(ray.put([40]), 2).hex())
    """
    (digits,) = run_driver(submit.format(address=address), tmp_path).lines()
    collect = """
        import cloudray as ray
        ray.init({address!r})
        print(ray.get(ray.ObjectRef.from_hex({digits!r})))
    """
    assert run_driver(collect.format(address=address, digits=digits), tmp_path).out == "42\n"
