"""From `init` to `shutdown`, and what is left when a driver ends in another way."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import cloudray as ray
from tests.integration.clusters import Embedded, start, wait_until_gone
from tests.integration.drivers import press_ctrl_c, run_driver, start_driver
from tests.integration.gates import wait_for


@ray.remote
def same(value: Any) -> Any:
    return value


def test_init_says_where_it_went(own_cluster: Callable[..., Embedded]) -> None:
    cluster = own_cluster(num_cpus=1)
    context = ray.init(ignore_reinit_error=True)
    assert context["address"].startswith(f"file://{cluster.folder}/store?durable=false&memory=")
    assert context["job_id"] == ray.get_runtime_context().get_job_id()
    assert context.address_info == dict(context)


def test_init_twice_is_an_error_unless_it_is_to_be_ignored(
    own_cluster: Callable[..., Embedded],
) -> None:
    own_cluster(num_cpus=1)
    with pytest.raises(RuntimeError, match="twice by accident"):
        ray.init()
    ray.init(ignore_reinit_error=True)
    assert ray.get(same.remote(1)) == 1


@pytest.mark.usefixtures("no_cluster")
def test_a_process_is_in_a_cluster_from_init_to_shutdown() -> None:
    assert not ray.is_initialized()
    start(num_cpus=1)
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()


def test_shutdown_twice_is_shutdown_once(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1).end()
    ray.shutdown()
    ray.shutdown(wait_for_processes=True)


def test_shutdown_ends_what_runs(own_cluster: Callable[..., Embedded], tmp_path: Path) -> None:
    @ray.remote
    def run_for_ever() -> None:
        tmp_path.joinpath("started").touch()
        time.sleep(3600)

    cluster = own_cluster(num_cpus=1)
    _ = run_for_ever.remote()
    wait_for(tmp_path / "started")
    assert len(cluster.processes()) >= 2
    cluster.end()


@pytest.mark.usefixtures("no_cluster")
def test_a_function_works_in_one_cluster_after_the_other() -> None:
    for number in range(2):
        cluster = start(num_cpus=1)
        assert ray.get(same.remote(number)) == number
        cluster.end()


def test_clusters_leave_no_open_files_behind(tmp_path: Path) -> None:
    # In a process of its own: nobody else closes or opens anything there meanwhile.
    program = """
        import os
        import cloudray as ray

        same = ray.remote(lambda value: value)

        def once():
            with ray.init(num_cpus=1):
                one = same.remote(1).future().result()
                ray.get([same.remote(bytes(200_000)), ray.put(one)])
            return len(os.listdir("/proc/self/fd"))

        print(once(), once())
    """
    first, second = run_driver(program, tmp_path).out.split()
    assert first == second


@pytest.mark.usefixtures("no_cluster")
def test_init_is_a_context_manager() -> None:
    with ray.init(num_cpus=1) as context:
        cluster = Embedded()
        assert context["address"].startswith("file://")
        assert ray.get(same.remote(1)) == 1
    assert not ray.is_initialized()
    assert not cluster.folder.exists()


@pytest.mark.parametrize(
    "use",
    [
        lambda: ray.get(same.remote(1)),
        lambda: ray.put(1),
        ray.get_runtime_context,
        ray.nodes,
    ],
    ids=["remote", "put", "get_runtime_context", "nodes"],
)
@pytest.mark.usefixtures("no_cluster")
def test_the_first_use_starts_a_cluster(use: Callable[[], Any]) -> None:
    use()
    assert ray.is_initialized()


@pytest.mark.parametrize("name", ["RAY_ENABLE_AUTO_CONNECT", "CLOUDRAY_ENABLE_AUTO_CONNECT"])
@pytest.mark.usefixtures("no_cluster")
def test_the_first_use_starts_nothing_where_that_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(RuntimeError, match=f"{name}=0: call cloudray.init"):
        _ = ray.put(1)
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_cluster")
def test_the_first_use_in_many_threads_starts_one_cluster() -> None:
    found: list[int] = []
    ready = threading.Barrier(8)

    def use(number: int) -> None:
        ready.wait()
        found.append(ray.get(same.remote(number)))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))
    assert len(list(Embedded().folder.parent.glob(f"cloudray-{os.getuid()}-{os.getpid()}-*"))) == 1


@pytest.mark.usefixtures("no_cluster")
def test_what_rays_init_takes_is_accepted() -> None:
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=10**8, dashboard_port=1)
    assert ray.get(same.remote(1)) == 1


@pytest.mark.usefixtures("no_cluster")
def test_an_unknown_keyword_of_init_is_refused() -> None:
    unknown = r"Unknown keyword argument.* number_of_cpus.*'num_cpus'"
    with pytest.raises(RuntimeError, match=unknown):
        ray.init(number_of_cpus=1)  # type: ignore[call-arg]
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_cluster")
def test_who_joins_a_cluster_offers_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_cpus must not be provided"):
        ray.init(tmp_path.as_uri(), num_cpus=1)


@pytest.mark.usefixtures("cluster")
def test_threads_share_the_cluster() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(20):
                refs = [same.remote(seed * 100 + number), ray.put(number)]
                assert ray.get(refs) == [seed * 100 + number, number]
                assert len(ray.wait(refs, num_returns=2)[0]) == 2
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.usefixtures("cluster")
def test_a_submission_starts_though_nobody_waits(tmp_path: Path) -> None:
    @ray.remote
    def touch(path: Path) -> None:
        path.touch()

    _ = touch.remote(tmp_path / "touched")
    wait_for(tmp_path / "touched")


@pytest.mark.usefixtures("no_cluster")
def test_a_ref_of_another_cluster_is_lost() -> None:
    start(num_cpus=1)
    ref = same.remote(1)
    stored = ray.put(2)
    ray.get(ref)
    ray.shutdown()
    start(num_cpus=1)
    for lost in (ref, stored):
        with pytest.raises(ray.exceptions.ObjectLostError, match=lost.hex()[:50]):
            ray.get(lost)


def test_waiting_threads_are_told_of_a_shutdown(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1)

    @ray.remote
    def wait_until(gate: Path) -> None:
        wait_for(gate)

    ref = wait_until.remote(tmp_path / "gate")
    told: list[BaseException] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            ray.get(ref)
        except Exception as error:  # noqa: BLE001 - what it is, the test asks below
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    ray.shutdown()
    thread.join(30)
    assert not thread.is_alive()
    assert len(told) == 1
    assert isinstance(told[0], ray.exceptions.RayError)


FACTS = """
        import os, sys, time
        import cloudray as ray
        context = ray.init(num_cpus=1, log_to_driver=False)

        @ray.remote
        def where():
            return os.getpid()

        @ray.remote
        def sleep():
            time.sleep(3600)

        folder = os.path.dirname(context["address"].removeprefix("file://").partition("?")[0])
        print(folder, ray.nodes()[0]["pid"], ray.get(where.remote()), flush=True)
"""


def read_facts(line: str) -> tuple[Path, list[psutil.Process]]:
    """The folder of a program's cluster, and its processes."""
    folder, *pids = line.split()
    return Path(folder), [psutil.Process(int(pid)) for pid in pids]


def is_left(folder: Path) -> bool:
    """Whether a folder is still there after a while."""
    deadline_s = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return folder.exists()


def test_a_driver_that_just_ends_leaves_nothing(tmp_path: Path) -> None:
    printed = run_driver(FACTS + "        sleep.remote()\n", tmp_path).out
    folder, *pids = printed.split()
    assert not Path(folder).exists()
    assert [pid for pid in pids if psutil.pid_exists(int(pid))] == []


def test_a_driver_that_fails_leaves_nothing(tmp_path: Path) -> None:
    program = FACTS + "        sleep.remote()\n        raise SystemExit('out of tea')\n"
    ended = run_driver(program, tmp_path, fails=True)
    folder, *pids = ended.out.split()
    assert "out of tea" in ended.err
    assert not Path(folder).exists()
    assert [pid for pid in pids if psutil.pid_exists(int(pid))] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with start_driver(FACTS + "        ray.get(sleep.remote())\n", tmp_path) as driver:
        assert driver.stdout is not None
        folder, processes = read_facts(driver.stdout.readline())
        driver.send_signal(number)
        driver.communicate(timeout=60)
    wait_until_gone(processes)
    assert not is_left(folder)


def test_ctrl_c_ends_a_driver_that_waits_and_leaves_nothing(tmp_path: Path) -> None:
    with start_driver(FACTS + "        ray.get(sleep.remote())\n", tmp_path) as driver:
        assert driver.stdout is not None
        folder, processes = read_facts(driver.stdout.readline())
        press_ctrl_c(driver)
        _, err = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert re.search(r"^KeyboardInterrupt", err, re.MULTILINE)
    wait_until_gone(processes)
    assert not is_left(folder)


def test_ctrl_c_that_is_caught_leaves_the_cluster_usable(tmp_path: Path) -> None:
    program = (
        FACTS
        + """
        try:
            print("waiting", flush=True)
            ray.get(sleep.options(num_cpus=0).remote())
        except KeyboardInterrupt:
            print("interrupted")
        print(ray.get(where.remote()) > 0)
    """
    )
    with start_driver(program, tmp_path) as driver:
        assert driver.stdout is not None
        while driver.stdout.readline() != "waiting\n":
            assert driver.poll() is None
        press_ctrl_c(driver)
        out, err = driver.communicate(timeout=60)
    assert (driver.returncode, out) == (0, "interrupted\nTrue\n"), err


def test_two_drivers_on_one_machine_do_not_meet(tmp_path: Path) -> None:
    program = """
        import sys
        import cloudray as ray
        ray.init(num_cpus=1)

        @ray.remote
        def add(first, second):
            return first + second

        total = add.remote(0, 0)
        for number in range(200):
            total = add.remote(total, number)
        print(ray.get(total), len(ray.nodes()))
    """
    script = tmp_path / "two.py"
    drivers = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        drivers.append(start_driver(program, folder))
    ended = [driver.communicate(timeout=60) for driver in drivers]
    assert [out for out, _ in ended] == ["19900 1\n"] * 2, ended
    assert not script.exists()


def test_a_forked_child_is_no_driver_of_its_parents_cluster(tmp_path: Path) -> None:
    program = """
        import os
        import cloudray as ray
        ray.init(num_cpus=1)

        @ray.remote
        def job():
            return ray.get_runtime_context().get_job_id()

        mine = ray.get(job.remote())
        child = os.fork()
        if child == 0:
            assert not ray.is_initialized()
            assert ray.get(job.remote()) != mine
            ray.shutdown()
            os._exit(0)
        print(os.waitpid(child, 0)[1], ray.get(job.remote()) == mine)
    """
    assert run_driver(program, tmp_path).out == "0 True\n"


def test_a_child_process_of_the_driver_does_not_keep_the_cluster_alive(tmp_path: Path) -> None:
    program = (
        "        import subprocess\n"
        + FACTS
        + """
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(sleeper, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(child.pid, flush=True)
        os._exit(0)
    """
    )
    folder_line, child = run_driver(program, tmp_path).lines()
    folder = Path(folder_line.split()[0])
    try:
        assert not is_left(folder)
    finally:
        psutil.Process(int(child)).kill()


def test_what_killed_clusters_left_is_swept_away_by_the_next(tmp_path: Path) -> None:
    with start_driver(FACTS + "        ray.get(sleep.remote())\n", tmp_path) as driver:
        assert driver.stdout is not None
        folder, processes = read_facts(driver.stdout.readline())
        driver.kill()
        for process in processes:
            process.kill()
        driver.communicate(timeout=60)
    wait_until_gone(processes)
    run_driver("import cloudray as ray\nray.init(num_cpus=1)\n", tmp_path)
    assert not folder.exists()
