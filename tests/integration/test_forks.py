"""Processes forked from a driver: each starts afresh, and none disturbs its parent's cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.family import Family
from tests.integration.drivers import run_driver

#: `fork(work)` runs something in a forked child; returns how that ended (a wait status).
PROGRAM = """
    import multiprocessing, os, pathlib, signal, sys, threading, time
    from concurrent.futures import ProcessPoolExecutor
    import cloudray as ray

    @ray.remote(num_cpus=0.001)
    def job(value=None):
        return ray.get_runtime_context().get_job_id() if value is None else value

    def fork(work):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        return os.waitpid(child, 0)[1]

    ray.init(num_cpus=2)
"""


def run(program: str, folder: Path) -> list[str]:
    """Run a program that has a cluster; returns the lines it printed."""
    return run_driver(PROGRAM + program, folder).lines()


def test_a_ref_of_its_parent_is_refused_with_the_reason(tmp_path: Path) -> None:
    program = """
    refs = [job.remote(5), ray.put(6)]
    ray.get(refs)

    def use():
        for ref in refs:
            for use in (lambda: ray.get(ref), lambda: ray.wait([ref]), lambda: job.remote(ref)):
                try:
                    use()
                except ray.exceptions.ObjectLostError as error:
                    print("from which this one was forked" in str(error))
        # Nothing was started for that.
        print(ray.is_initialized())

    print(fork(use), ray.get(refs))
    """
    assert run(program, tmp_path) == ["True"] * 6 + ["False", "0 [5, 6]"]


@pytest.mark.parametrize(
    "end", ["return", "sys.exit(3)", "os._exit(4)", "os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_the_end_of_a_child_leaves_its_parents_cluster_alone(tmp_path: Path, end: str) -> None:
    program = f"""
    running = job.remote([1, 2])
    child = os.fork()
    if child == 0:
        def leave():
            {end}
        leave()
        sys.exit(0)
    os.waitpid(child, 0)
    print(ray.get(running), ray.get(job.remote(7)), len(ray.nodes()))
    """
    assert run(program, tmp_path) == ["[1, 2] 7 1"]


def test_shutdown_in_a_child_does_nothing_to_its_parent(tmp_path: Path) -> None:
    program = """
    status = fork(ray.shutdown)
    print(status, ray.is_initialized(), ray.get(job.remote(7)))
    """
    assert run(program, tmp_path) == ["0 True 7"]


def test_a_child_has_no_descriptor_of_its_parents_cluster(tmp_path: Path) -> None:
    program = """
    def links():
        found = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                found.add(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                pass  # the listing's own
        return found

    ray.get(job.remote(1))
    ray.shutdown()
    without = links()
    ray.init(num_cpus=1)
    ray.get(job.remote(1))
    print(len(links() - without) > 2)
    fork(lambda: print(links() - without))
    """
    assert run(program, tmp_path) == ["True", "set()"]


def test_a_child_that_outlives_its_parent_does_not_keep_the_cluster_alive(tmp_path: Path) -> None:
    program = """
    ray.init(num_cpus=2)
    ray.get(sleep.remote(0))
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    up()
    signal.pause()
    """
    with Family(program, tmp_path) as family:
        child = int(family.read_line())
        family.await_up()
        family.driver.kill()
        family.driver.wait()
        family.wait_for_processes(but=child)


@pytest.mark.parametrize(
    "pool",
    [
        "multiprocessing.get_context('fork').Pool(2)",
        "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork'))",
    ],
)
def test_workers_of_a_pool_each_have_a_cluster_of_their_own(tmp_path: Path, pool: str) -> None:
    program = f"""
    def work(number):
        return ray.get(job.remote(number)), ray.get(job.remote())

    mine = ray.get(job.remote())
    with {pool} as pool:
        found = list(pool.map(work, range(4)))
    print([value for value, _ in found], mine in {{job for _, job in found}})
    print(ray.get(job.remote(8)))
    """
    assert run(program, tmp_path) == ["[0, 1, 2, 3] False", "8"]


def test_a_fork_while_other_threads_are_busy_does_not_hang(tmp_path: Path) -> None:
    program = """
    stop = threading.Event()

    def work():
        while not stop.is_set():
            ray.get([job.remote(number) for number in range(10)])
            ray.put(bytes(200_000))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    ref = job.remote(1)

    def use():
        signal.alarm(60)
        try:
            ray.get(ref)
        except ray.exceptions.ObjectLostError:
            pass
        ray.is_initialized()

    def start():
        use()
        ray.init(num_cpus=1, log_to_driver=False)
        assert ray.get(job.remote(2)) == 2
        ray.shutdown()

    print({fork(use) for _ in range(40)}, fork(start))
    stop.set()
    for thread in threads:
        thread.join()
    """
    assert run(program, tmp_path) == ["{0} 0"]
