"""Close the laptop: what a driver submitted goes on without it, and is collected elsewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray.cli.app import run
from cloudray.exceptions import ObjectLostError, TaskCancelledError
from cloudray.store import layout
from tests.buckets import credentials
from tests.integration.drivers import LIMIT_S, press_ctrl_c, run_driver, start_driver
from tests.integration.places import Place, place_at

#: Five levels of a hundred tasks each; each needs two of the level before.
DAG = """
    import os, signal, sys, time
    import cloudray as ray

    ray.init({address!r}, job="dag")

    @ray.remote
    def add(*numbers):
        return sum(numbers) + 1

    level = [add.remote() for _ in range(100)]
    for _ in range(4):
        level = [add.remote(level[n], level[(n + 1) % 100]) for n in range(100)]
    print(level[-1].hex(), flush=True)
    {end}
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
#: What the tasks of each level return.
LEVELS = [1, 3, 7, 15, 31]


@pytest.fixture
def directory(no_cluster: None, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - none before
    with place_at(f"file://{tmp_path}/cluster?durable=false", tmp_path) as place:
        yield place


@pytest.fixture(params=["directory", "localstack", "radosgw"])
def place(
    request: pytest.FixtureRequest,
    no_cluster: None,  # noqa: ARG001 - none before
    tmp_path: Path,
) -> Iterator[Place]:
    if request.param == "directory":
        address = f"file://{tmp_path}/cluster?durable=false"
    else:
        address = request.getfixturevalue(request.param).address(tmp_path.name)
    with credentials(), place_at(address, tmp_path) as made:
        yield made


def submit_and_die(place: Place, folder: Path) -> str:
    """Let a driver submit a DAG and be killed; returns the text of the last ref."""
    source = DAG.format(address=place.address, end=KILL)
    ended = run_driver(source, folder, fails=True)
    assert ended.status == -signal.SIGKILL
    return ended.out.strip()


def assert_all_collected(last: str) -> None:
    job = ray.get_job("dag")
    assert job.wait(timeout=LIMIT_S)
    refs = job.refs()
    assert [ref.hex() for ref in refs][-1] == last
    assert ray.get(refs) == [value for value in LEVELS for _ in range(100)]
    assert job.status() == "SUCCEEDED"
    assert job.counts().done == 500


# -- the driver goes -----------------------------------------------------------------------------


def test_another_process_collects_what_a_killed_driver_submitted(
    place: Place, tmp_path: Path
) -> None:
    place.start_agent("--num-cpus", "2")
    last = submit_and_die(place, tmp_path)
    ray.init(place.address)
    assert_all_collected(last)


def test_so_it_does_when_the_agents_are_killed_too_and_others_come(
    place: Place, tmp_path: Path
) -> None:
    for _ in range(2):
        place.start_agent("--num-cpus", "1")
    last = submit_and_die(place, tmp_path)
    place.kill_agents()
    place.start_agent("--num-cpus", "2")
    ray.init(place.address)
    assert_all_collected(last)


def test_a_value_is_had_from_its_refs_text_alone(directory: Place, tmp_path: Path) -> None:
    directory.start_agent("--num-cpus", "1")
    last = submit_and_die(directory, tmp_path)
    collected = run_driver(
        f"""
        import cloudray
        cloudray.init({directory.address!r})
        print(cloudray.get(cloudray.ref({last!r})))
        """,
        tmp_path,
    )
    assert collected.lines() == ["31"]


@pytest.mark.parametrize("how", ["exit", "ctrl-c"])
def test_who_leaves_work_behind_is_told_how_to_collect_and_to_stop_it(
    directory: Place, tmp_path: Path, how: str
) -> None:
    end = "time.sleep(60)" if how == "ctrl-c" else ""
    driver = start_driver(DAG.format(address=directory.address, end=end), tmp_path)
    assert driver.stdout is not None
    last = driver.stdout.readline().strip()
    if how == "ctrl-c":
        press_ctrl_c(driver)
    _, said = driver.communicate(timeout=LIMIT_S)
    job = ray.ref(last).job_id()
    assert "500 queued tasks were left" in said
    assert f"cloudray jobs cancel {job}" in said
    assert f'cloudray.get_job("{job}").refs()' in said
    assert directory.queue(job) == 500


def test_what_a_program_submits_as_it_ends_is_stored(directory: Place, tmp_path: Path) -> None:
    synced = directory.address.partition("?")[0]
    ended = run_driver(
        f"""
        import atexit
        import cloudray

        @cloudray.remote
        def double(number):
            return 2 * number

        cloudray.init({synced!r})

        @atexit.register
        def submit():
            refs = [double.remote(cloudray.put(number)) for number in range(3)]
            print(cloudray.get_runtime_context().get_job_id())
        """,
        tmp_path,
    )
    assert directory.queue(ended.out.strip()) == 3


# -- looking at jobs -----------------------------------------------------------------------------


@ray.remote
def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return "seen"


@ray.remote
def parent(path: str) -> str:
    return ray.get(wait_for_file.remote(path))


@ray.remote
def fail() -> None:
    raise ValueError("on purpose")


@ray.remote
def say(text: str) -> None:
    print(text)  # noqa: T201 - what is to be seen in the logs


def wait_until(condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_job_tells_how_far_it_is(directory: Place, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ray.init(directory.address, job="mine")
    job = ray.get_job("mine")
    refs = [wait_for_file.remote(str(gate)), fail.remote()]
    assert job.status() == "PENDING"
    assert not job.wait(timeout=0)
    directory.start_agent("--num-cpus", "2")
    wait_until(lambda: job.counts().running == 1 and job.counts().failed == 1)
    assert job.status() == "RUNNING"
    gate.touch()
    assert job.wait(timeout=LIMIT_S)
    assert job.status() == "FAILED"
    assert job.refs() == refs


def test_jobs_are_found_by_their_ids_and_by_names_that_no_other_has(directory: Place) -> None:
    ids = []
    for _ in range(2):
        ray.init(directory.address, job="twice")
        ids.append(ray.get_runtime_context().get_job_id())
        ray.shutdown()
    ray.init(directory.address)
    assert [ray.get_job(job).name for job in ids] == ["twice", "twice"]
    with pytest.raises(ValueError, match=f"2 jobs are called 'twice'.*{ids[0]}"):
        ray.get_job("twice")
    with pytest.raises(ValueError, match="no job 'never'"):
        ray.get_job("never")
    assert [job.id for job in ray.jobs()][:2] == ids


def test_a_task_has_no_way_to_jobs(directory: Place) -> None:
    directory.start_agent("--num-cpus", "1")
    ray.init(directory.address)

    @ray.remote
    def look() -> None:
        ray.jobs()

    with pytest.raises(RuntimeError, match="where the driver runs"):
        ray.get(look.remote())


def test_cancelling_a_job_stops_what_its_tasks_have_submitted(
    directory: Place, tmp_path: Path
) -> None:
    directory.start_agent("--num-cpus", "1")
    ray.init(directory.address, job="nested")
    job = ray.get_job("nested")
    ref = parent.remote(str(tmp_path / "never"))
    wait_until(lambda: job.counts().nested == 1)
    assert job.cancel() == 2
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
    assert job.status() == "STOPPED"
    wait_until(lambda: ray.available_resources().get("CPU") == 1)
    assert directory.queue(job.id) == 0


def test_without_recursion_the_children_of_a_cancelled_task_go_on(
    directory: Place, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    directory.start_agent("--num-cpus", "2")
    ray.init(directory.address)
    seen = tmp_path / "seen"

    @ray.remote
    def child(gate: str, seen: str) -> None:
        ray.get(wait_for_file.remote(gate))
        Path(seen).touch()

    @ray.remote
    def launch(gate: str, seen: str) -> None:
        ref = child.remote(gate, seen)
        ref.hex()
        Path(seen + ".launched").touch()
        ray.get(ref)

    ref = launch.remote(str(gate), str(seen))
    wait_until((tmp_path / "seen.launched").exists)
    ray.cancel(ref, recursive=False)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
    gate.touch()
    wait_until(seen.exists)


def test_values_of_a_deleted_job_are_lost_since_then(place: Place, tmp_path: Path) -> None:
    place.start_agent("--num-cpus", "2")
    ray.init(place.address, job="deleted")
    done, large = say.remote("hello"), ray.put(bytes(1_000_000))
    runs = wait_for_file.remote(str(tmp_path / "never"))
    assert ray.get(done) is None
    job = ray.get_job("deleted")
    texts = [ref.hex() for ref in (done, large, runs)]
    ray.shutdown()
    ray.init(place.address)
    job = ray.get_job("deleted")
    job.delete()
    assert job.status() == "DELETED"
    for text in texts:
        with pytest.raises(ObjectLostError, match=r"its job was deleted on 20.* UTC"):
            ray.get(ray.ref(text), timeout=LIMIT_S)
    wait_until(lambda: ray.available_resources().get("CPU") == 2)
    assert place.queue(job.id) == 0


# -- the commands --------------------------------------------------------------------------------


def test_a_list_says_of_each_job_how_far_it_is(directory: Place, cloudray: Cli) -> None:
    assert cloudray.said("jobs", "list", directory.address).startswith("no jobs yet: ")
    directory.start_agent("--num-cpus", "1")
    for name, failing in (("good", 0), ("bad", 1)):
        ray.init(directory.address, job=name)
        refs = [say.remote("hello"), *(fail.remote() for _ in range(failing))]
        ray.wait(refs, num_returns=len(refs))
        ray.shutdown()
    ray.init(directory.address, job="stopped")
    never = say.options(num_cpus=100).remote("never")
    ray.wait([never], timeout=0)
    ray.shutdown()
    cloudray.said("jobs", "cancel", "stopped", directory.address)
    lines = cloudray.said("jobs", "list", directory.address).splitlines()[1:]
    assert [re.split("  +", line)[1:-2] for line in lines] == [
        ["good", "SUCCEEDED", "1/1"],
        ["bad", "FAILED", "1/2", "1 failed"],
        ["stopped", "STOPPED", "0/1", "1 cancelled"],
    ]


class Cli:
    """The command `cloudray`, run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Any:
        """Run a command with `--json`; returns what it printed."""
        return json.loads(self.said(*arguments, "--json"))

    def said(self, *arguments: str) -> str:
        """Run a command; returns what it printed."""
        self._capsys.readouterr()
        code = run(arguments)
        out, err = self._capsys.readouterr()
        assert code == 0, err
        return out

    def complaint(self, *arguments: str) -> str:
        """Run a command that fails; returns what it said about it."""
        self._capsys.readouterr()
        assert run(arguments) != 0
        return self._capsys.readouterr().err


@pytest.fixture
def cloudray(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_a_jobs_life_by_commands(directory: Place, cloudray: Cli) -> None:
    address = directory.address
    directory.start_agent("--num-cpus", "1")
    ray.init(address, job="nightly")
    job = ray.get_runtime_context().get_job_id()
    ref = say.remote("hello from a task")
    ray.get(ref)
    stuck = say.options(num_cpus=100).remote("never")
    ray.shutdown()
    (listed,) = cloudray("jobs", "list", address)
    assert (listed["job"], listed["name"], listed["retention_days"]) == (job, "nightly", 7)
    shown = cloudray("jobs", "show", "nightly", address)
    assert {name: shown[name] for name in listed} == listed
    assert shown["status"] == "RUNNING"
    assert datetime.fromisoformat(shown["started_at"]) <= datetime.now(UTC)
    assert shown["host"] == socket.gethostname()
    assert (shown["ended_at"], shown["ended_reason"]) == (None, None)
    assert shown["tasks"] == {
        "total": 2,
        "done": 1,
        "failed": 0,
        "cancelled": 0,
        "running": 0,
        "pending": 1,
        "nested": 0,
    }
    assert {ref.id.hex(), stuck.id.hex()} == set(shown["refs"])
    wait_until(lambda: "hello from a task" in cloudray("jobs", "logs", job, address)["logs"])
    assert cloudray("jobs", "cancel", job, address) == {"job": job, "cancelled": 1}
    said = cloudray.said("jobs", "cancel", job, address)
    assert said == f"job {job} (nightly) has nothing left to cancel\n"
    assert cloudray("jobs", "show", job, address)["status"] == "STOPPED"
    assert "say --yes" in cloudray.complaint("jobs", "delete", job, address)
    assert "say --yes" in cloudray.complaint("jobs", "delete", job, address, "--json")
    assert cloudray("jobs", "show", job, address)["status"] == "STOPPED"
    deleted = cloudray("jobs", "delete", job, address, "--yes")
    assert deleted["ended_reason"] == "its job was deleted"
    assert abs(datetime.fromisoformat(deleted["ended_at"]) - datetime.now(UTC)) < timedelta(days=1)
    shown = cloudray("jobs", "show", "nightly", address)
    assert (shown["status"], shown["tasks"]) == ("DELETED", None)
    # Its record is gone, but its id tells when it began.
    began, told = (datetime.fromisoformat(one["started_at"]) for one in (listed, shown))
    assert abs(began - told) < timedelta(hours=1)
    (collected,) = [one for one in directory.keys(layout.JOBS) if one.endswith("meta.deleted")]
    assert collected


def test_a_job_that_there_is_not_is_named_in_one_sentence(directory: Place, cloudray: Cli) -> None:
    said = cloudray.complaint("jobs", "show", "never", directory.address)
    assert said.count("\n") == 1
    command = f"cloudray jobs list {shlex.quote(directory.address)}"
    assert f"no job 'never': `{command}` lists those" in said


def test_people_see_tables(directory: Place, cloudray: Cli) -> None:
    ray.init(directory.address, job="nightly [1]")
    job = ray.get_runtime_context().get_job_id()
    refs = [say.remote("never") for _ in range(30)]
    ray.shutdown()
    header, line = cloudray.said("jobs", "list", directory.address).splitlines()
    assert header.split() == ["job", "name", "status", "done", "started", "host"]
    assert line.startswith(f"{job}  nightly [1]  PENDING  0/30  30 pending  20")
    assert line.endswith(socket.gethostname())
    quick = cloudray("jobs", "list", directory.address, "--no-counts")
    assert [(one["status"], one["tasks"]) for one in quick] == [(None, None)]
    shown = cloudray.said("jobs", "show", "nightly [1]", directory.address)
    assert "and 10 more: --all shows them" in shown
    everything = cloudray.said("jobs", "show", job, directory.address, "--all")
    assert all(ref.id.hex() in everything for ref in refs)
    assert cloudray.said("jobs", "cancel", job, directory.address).startswith(
        f"30 tasks of job {job} (nightly [1]) cancelled"
    )
    assert cloudray.said("gc", directory.address) == "nothing to do\n"


def test_garbage_is_collected_by_a_command_once(
    directory: Place, tmp_path: Path, cloudray: Cli
) -> None:
    directory.start_agent("--num-cpus", "1")
    submit_and_die(directory, tmp_path)
    ray.init(directory.address)
    job = ray.get_job("dag")
    assert job.wait(timeout=LIMIT_S)
    ray.shutdown()
    week_ago_s = time.time() - 8 * 86_400
    for path in (tmp_path / "cluster" / "t7").rglob("meta"):
        os.utime(path, (week_ago_s, week_ago_s))
    would = cloudray("gc", directory.address, "--dry-run")
    assert [one["what"] for one in would["found"]][:1] == ["job that has ended"]
    first = cloudray("gc", directory.address)
    assert first["total"]["journals"] == would["total"]["journals"] > 0
    assert cloudray("gc", directory.address)["found"] == []
    ray.init(directory.address)
    with pytest.raises(ObjectLostError, match="retention of 7 days was over on 20"):
        ray.get(ray.ref(job.id and _first_ref(job)), timeout=LIMIT_S)


def _first_ref(job: ray.Job) -> str:
    """The text of the first ref of a job, as its driver had it."""
    return (job._progress._prefix + bytes(8)).hex()
