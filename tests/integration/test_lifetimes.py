"""Bytes that nothing names any more go back, whoever held the last ref; all others stay."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cloudray as ray
from cloudray import context
from cloudray.exceptions import ObjectLostError
from cloudray.store.base import List
from tests.integration.clusters import Embedded
from tests.integration.gates import LIMIT_S, wait_for

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 200_000


def array() -> np.ndarray[Any, Any]:
    """More than travels inline."""
    return np.arange(LARGE, dtype=np.uint8)


def keys(part: str) -> list[str]:
    """The keys of the job with this part in them."""
    client: Any = context.client()
    return [entry.key for entry in client.store.perform(List("t7/")) if part in entry.key]


def objects() -> int:
    return len(keys("/objects/"))


def used_bytes() -> int:
    """Bytes of values in memory, in the store or about to be."""
    client: Any = context.client()
    return int(client.store.room.used_bytes())


def collect() -> None:
    """What may be freed is, meanwhile: all that was said before has been heard then."""
    gc.collect()
    for _ in range(20):
        ray.get(same.remote(1))


def becomes(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    gc.collect()
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def _starts_empty() -> None:
    assert becomes(lambda: objects() == 0), keys("/objects/")


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def total(value: Any) -> int:
    return int(value.sum())


@ray.remote
def put_and_return(value: Any) -> list[Any]:
    return [ray.put(value), same.remote(value)]


@ray.remote
def total_inside(refs: list[Any]) -> int:
    return sum(int(ray.get(ref).sum()) for ref in refs)


@ray.remote
def keep(value: Any) -> None:
    import builtins

    builtins.kept = value  # type: ignore[attr-defined]


def test_a_value_goes_with_its_last_ref() -> None:
    ref = ray.put(array())
    twin = ref
    del ref
    assert ray.get(twin).sum() == array().sum()
    assert objects() == 1
    del twin
    assert becomes(lambda: objects() == 0)


def test_a_value_that_was_got_outlives_its_ref() -> None:
    found = ray.get(ray.put(array()))
    assert becomes(lambda: objects() == 0)
    assert (found == array()).all()


def test_a_loop_of_puts_keeps_only_what_is_named() -> None:
    most = 0
    refs: list[Any] = []
    for _ in range(50):
        refs[:] = [ray.put(array())]
        most = max(most, objects())
    assert most <= 3
    refs.clear()
    assert becomes(lambda: objects() == 0)


def test_a_result_goes_with_its_ref_and_its_argument_with_the_task() -> None:
    ref = same.remote(array())
    assert ray.get(ref).sum() == array().sum()
    assert becomes(lambda: objects() == 1)
    del ref
    assert becomes(lambda: objects() == 0)


def test_results_that_are_taken_one_by_one_go_one_by_one(tmp_path: Path) -> None:
    @ray.remote
    def make(gate: Path | None) -> Any:
        if gate is not None:
            wait_for(gate)
        return array()

    gate = tmp_path / "gate"
    refs = [make.remote(None) for _ in range(4)] + [make.remote(gate)]
    try:
        for left in (3, 2, 1, 0):
            assert ray.get(refs.pop(0)).sum() == array().sum()
            assert becomes(lambda left=left: objects() == left)  # type: ignore[misc]
    finally:
        gate.touch()
    ray.get(refs)


def test_a_large_argument_stays_until_its_task_has_run(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def wait_and_add(value: Any) -> int:
        wait_for(gate)
        return int(value.sum())

    value = ray.put(array())
    first, second = wait_and_add.remote(value), wait_and_add.remote(array())
    del value
    ray.wait([first], timeout=0.1)
    assert objects() == 2
    gate.touch()
    assert ray.get([first, second]) == [array().sum()] * 2
    assert becomes(lambda: objects() == 0)


def test_a_value_stays_while_another_contains_its_ref() -> None:
    outer = ray.put([ray.put(array())])
    gc.collect()
    assert ray.get(ray.get(outer)[0]).sum() == array().sum()
    (inner,) = ray.get(outer)
    del outer
    assert ray.get(inner).sum() == array().sum()
    del inner
    assert becomes(lambda: objects() == 0)


def test_values_made_in_tasks_live_as_long_as_refs_to_them_in_the_driver() -> None:
    outer = put_and_return.remote(array())
    refs = ray.get(outer)
    del outer
    assert ray.get(total_inside.remote(refs)) == 2 * array().sum()
    assert ray.get([total.remote(ref) for ref in refs]) == [array().sum()] * 2
    del refs
    assert becomes(lambda: objects() == 0)


def test_values_made_in_tasks_go_with_the_tasks() -> None:
    @ray.remote
    def use() -> int:
        most = 0
        for _ in range(10):
            most += int(ray.get(ray.put(array())).sum())
            most += int(ray.get(same.remote(array())).sum())
        return most

    assert ray.get(use.remote()) == 20 * array().sum()
    assert becomes(lambda: objects() == 0)


def test_a_ref_that_an_executor_keeps_keeps_its_value(
    own_cluster: Callable[..., Embedded],
) -> None:
    own_cluster(num_cpus=1)
    ref = ray.put(array())
    ray.get(keep.remote([ref]))
    del ref

    @ray.remote
    def use_kept() -> int:
        import builtins

        return int(ray.get(builtins.kept[0]).sum())  # type: ignore[attr-defined]

    ray.get([same.remote(1) for _ in range(20)])
    assert ray.get(use_kept.remote()) == array().sum()
    ray.get(keep.remote(None))
    assert becomes(lambda: objects() == 0)


def test_a_ref_that_an_executor_kept_goes_when_the_executor_dies(cluster: Embedded) -> None:
    @ray.remote
    def keep_here(value: Any) -> int:
        import builtins

        builtins.kept = value  # type: ignore[attr-defined]
        return os.getpid()

    ref = ray.put(array())
    pid = ray.get(keep_here.remote([ref]))
    del ref
    ray.get([same.remote(1) for _ in range(20)])
    assert objects() == 1
    assert pid in {process.pid for process in cluster.executors()}
    os.kill(pid, signal.SIGKILL)
    assert becomes(lambda: objects() == 0)


def test_what_a_failed_task_names_in_its_error_stays_readable() -> None:
    class FoundError(Exception):
        def __init__(self, ref: Any) -> None:
            super().__init__(ref)
            self.ref = ref

    @ray.remote
    def fail() -> None:
        raise FoundError(ray.put(array()))

    failed = fail.remote()
    with pytest.raises(FoundError) as raised:
        ray.get(failed)
    assert ray.get(raised.value.args[0]).sum() == array().sum()
    del raised, failed
    assert becomes(lambda: objects() == 0)


def test_a_cancelled_task_lets_go_of_its_argument(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def hold(value: Any) -> None:  # noqa: ARG001 - it is there to be held
        wait_for(gate)

    value = ray.put(array())
    refs = [hold.remote(value) for _ in range(6)]
    del value
    for ref in refs:
        ray.cancel(ref)
    gate.touch()
    ready, _ = ray.wait(refs, num_returns=len(refs))
    assert len(ready) == len(refs)
    assert becomes(lambda: objects() == 0)


def test_a_pickled_ref_is_kept_for_good(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1)
    text = pickle.dumps(ray.put(array()))
    gc.collect()
    for _ in range(10):
        ray.get(same.remote(array()))
    assert ray.get(pickle.loads(text)).sum() == array().sum()


def test_an_id_as_text_keeps_nothing_and_says_so() -> None:
    text = same.remote(array()).hex()
    assert becomes(lambda: not keys("/results/") and objects() == 0)
    with pytest.raises(ObjectLostError, match="freed when no ref to it was left"):
        ray.get(ray.ObjectRef.from_hex(text))


def test_journals_go_too_a_while_after_their_refs() -> None:
    for _ in range(30):
        ray.get(same.remote(1))
    assert becomes(lambda: len(keys("/results/")) == 0)


def test_what_lives_when_the_agent_dies_still_can_be_got(
    own_cluster: Callable[..., Embedded],
) -> None:
    cluster = own_cluster(num_cpus=1)
    kept, plain = ray.get(put_and_return.remote(array())), ray.put(array())
    os.kill(cluster.agent, signal.SIGKILL)
    assert ray.get(total_inside.remote(kept)) == 2 * array().sum()
    assert ray.get(total.remote(plain)) == array().sum()
    # The argument of the task that made the second may be among what is kept for good.
    left = objects() - 1
    assert left >= 2
    del plain
    assert becomes(lambda: objects() <= left)
    for _ in range(5):
        assert ray.get(same.remote(array())).sum() == array().sum()
    assert becomes(lambda: objects() <= left)
    assert ray.get(total_inside.remote(kept)) == 2 * array().sum()


def test_a_future_keeps_its_value_until_it_has_ended() -> None:
    go = threading.Event()
    slow, large = same.remote(1).future(), same.remote(array()).future()
    # They end one after the other.
    slow.add_done_callback(lambda _: go.wait(LIMIT_S))
    refs = put_and_return.remote(array()).future()
    client: Any = context.client()
    assert becomes(lambda: not client._promises)
    collect()
    go.set()
    assert large.result(LIMIT_S).sum() == array().sum()
    assert [ray.get(ref).sum() for ref in refs.result(LIMIT_S)] == [array().sum()] * 2
    del slow, large, refs
    assert becomes(lambda: objects() == 0)


def test_a_future_in_a_task_keeps_its_value_until_it_has_ended() -> None:
    @ray.remote
    def use() -> int:
        go = threading.Event()
        slow = same.remote(1).future()
        slow.add_done_callback(lambda _: go.wait(LIMIT_S))
        large = same.remote(array()).future()
        for number in range(20):
            ray.get(same.remote(number))
            _ = ray.put(number)
        go.set()
        return int(large.result(LIMIT_S).sum())

    assert ray.get(use.remote()) == array().sum()
    assert becomes(lambda: objects() == 0)


class ValueError_(ValueError):  # noqa: N801 - an error with a value
    """An error that carries something."""

    def __init__(self, value: Any) -> None:
        super().__init__("see my value")
        self.value = value

    def __reduce__(self) -> Any:
        return ValueError_, (self.value,)


@pytest.mark.parametrize("apart", [False, True])
def test_a_failure_that_dependents_share_outlives_the_task_that_failed(*, apart: bool) -> None:
    @ray.remote
    def fail(value: Any) -> None:
        raise ValueError_(ray.put(value) if len(value) == 1 else value)

    for value in (array(), [array()]):
        first = fail.remote(value)
        if apart:
            ray.wait([first])
        second = same.remote(first)
        ray.wait([second])
        del first
        collect()
        with pytest.raises(ValueError_) as raised:
            ray.get(second)
        found = raised.value.value
        if isinstance(found, ray.ObjectRef):
            (found,) = ray.get(found)
        assert found.sum() == array().sum()
        del second, raised, found


def test_values_that_a_long_task_has_used_go_while_it_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def use() -> None:
        for number in range(5):
            assert len(ray.get(same.remote(array()))) == LARGE, number
        (tmp_path / "used").touch()
        wait_for(gate)

    running = use.remote()
    wait_for(tmp_path / "used")
    try:
        assert becomes(lambda: objects() == 0)
    finally:
        gate.touch()
    ray.get(running)


def test_what_a_task_has_written_in_vain_goes(tmp_path: Path) -> None:
    @ray.remote(num_returns=2, max_retries=0)
    def half() -> Any:
        return array(), threading.Lock()

    @ray.remote(max_retries=1, retry_exceptions=True)
    def fail_twice() -> None:
        raise ValueError_(array())

    @ray.remote
    def go_on() -> Any:
        try:
            (tmp_path / "runs").touch()
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            return array()

    refs = half.remote()
    with pytest.raises(TypeError, match="lock"):
        ray.get(refs)
    failed = fail_twice.remote()
    with pytest.raises(ValueError_):
        ray.get(failed)
    cancelled = go_on.remote()
    wait_for(tmp_path / "runs")
    ray.cancel(cancelled)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(cancelled)
    del refs, failed, cancelled
    assert becomes(lambda: used_bytes() == 0)


def test_a_cancelled_task_that_nobody_can_run_lets_go_of_its_arguments() -> None:
    @ray.remote(resources={"nobody_has_it": 1})
    def wait_for_ever(first: Any, second: Any) -> None:
        del first, second

    value = ray.put(array())
    refs = [wait_for_ever.remote(value, array())]
    collect()
    ray.cancel(refs[0])
    del value
    refs.clear()
    assert becomes(lambda: objects() == 0)
    assert becomes(lambda: len(queued()) == 0)


def queued() -> list[str]:
    """The batches in the queue."""
    client: Any = context.client()
    found = client.store.perform(List("queue/"))
    return [entry.key for entry in found if entry.key.endswith(".0")]


def test_a_cancelled_task_has_its_arguments_while_it_cleans_up(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=2)

    @ray.remote
    def clean_up(refs: list[Any]) -> None:
        try:
            (tmp_path / "runs").touch()
            time.sleep(LIMIT_S)
        except KeyboardInterrupt:
            wait_for(tmp_path / "cancelled")
            (tmp_path / "partly").write_text(str(ray.get(refs[0]).sum()))
            (tmp_path / "found").touch()

    refs = [clean_up.remote([ray.put(array())])]
    wait_for(tmp_path / "runs")
    ray.cancel(refs[0])
    refs.clear()
    collect()
    (tmp_path / "cancelled").touch()
    wait_for(tmp_path / "found")
    assert (tmp_path / "partly").read_text() == str(array().sum())
    assert becomes(lambda: objects() == 0)


class Lazy:
    """Stores what it has when it is pickled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return list, ((ray.put(self.value),),)


@pytest.mark.parametrize("way", ["put", "passed", "returned", "generated"])
def test_a_ref_that_is_made_for_a_pickle_keeps_its_value(way: str) -> None:
    @ray.remote
    def make() -> Any:
        return Lazy(array())

    @ray.remote(num_returns=2)
    def generate() -> Any:
        yield [ray.put(array())]
        yield None

    @ray.remote
    def use(values: list[Any]) -> Any:
        return values[0]

    ways: dict[str, Callable[[], Any]] = {
        "put": lambda: ray.put(Lazy(array())),
        "passed": lambda: use.remote([Lazy(array())]),
        "returned": lambda: make.remote(),  # noqa: PLW0108 - the type of the other is its own
        "generated": lambda: generate.remote()[0],
    }
    outer: Any = ways[way]()
    ray.wait([outer])
    collect()
    (inner,) = ray.get(outer)
    del outer
    collect()
    assert ray.get(inner).sum() == array().sum()
    del inner
    assert becomes(lambda: objects() == 0)


def test_a_value_stays_while_another_of_its_batch_contains_its_ref() -> None:
    first = same.remote(array())
    second = same.remote([first])
    ray.wait([second])
    del first
    collect()
    assert ray.get(ray.get(second)[0]).sum() == array().sum()
    del second
    assert becomes(lambda: objects() == 0)


def test_a_ref_in_a_cycle_of_garbage_goes_when_its_executor_is_idle() -> None:
    @ray.remote
    def leave_garbage() -> None:
        cycle: list[Any] = [ray.put(array())]
        cycle.append(cycle)

    ray.get(leave_garbage.remote())
    assert becomes(lambda: objects() == 0)
