"""Tasks that no agent can run: the driver is told at once, and they wait for one that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from tests.chaos.cluster import Agents
from tests.integration.drivers import run_driver

START = """
        import logging, os, sys, threading, time
        import cloudray as ray

        class Listener:
            \"\"\"Knows when so many warnings have been printed.\"\"\"

            def __init__(self, stream):
                self.stream, self.text, self.changed = stream, "", threading.Condition()

            def write(self, text):
                with self.changed:
                    self.text += text
                    self.changed.notify_all()
                return self.stream.write(text)

            def flush(self):
                self.stream.flush()

            def isatty(self):
                return False

            def wait_for(self, count):
                with self.changed:
                    if not self.changed.wait_for(lambda: self.warnings() >= count, 30):
                        raise TimeoutError("nothing was said")

            def warnings(self):
                return self.text.count("cloudray: task")

        sys.stderr = Listener(sys.stderr)
"""
HERE = (
    START
    + """
        ray.init(num_cpus=2, resources={"tea": 1})

        @ray.remote
        def train(*needed):
            return "trained"
"""
)


def warnings(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("cloudray: task")]


def test_what_was_asked_and_what_there_is_are_said_once(tmp_path: Path) -> None:
    ended = run_driver(
        HERE
        + """
        refs = [train.options(num_gpus=1).remote() for _ in range(5)]
        sys.stderr.wait_for(1)
        refs.append(train.options(num_gpus=1).remote())
        refs.append(train.options(num_cpus=64, name="large").remote())
        sys.stderr.wait_for(2)
        """,
        tmp_path,
    )
    gpu, large = warnings(ended.err)
    assert "task train asks for 1 CPU, 1 GPU, but this cluster has only 2 CPUs" in gpu
    assert "cloudray.init(num_gpus=1)" in gpu
    assert "task large asks for 64 CPUs" in large


def test_what_a_task_submits_is_told_to_the_driver_too(tmp_path: Path) -> None:
    ended = run_driver(
        HERE
        + """
        @ray.remote
        def parent():
            return [train.options(resources={"coffee": 1}).remote()]

        refs = ray.get(parent.remote())
        sys.stderr.wait_for(1)
        print(ray.wait(refs, timeout=0) == ([], refs))
        """,
        tmp_path,
    )
    (line,) = warnings(ended.err)
    assert "task train asks for 1 CPU, 1 coffee" in line
    assert ended.lines() == ["True"]


def test_others_of_its_kind_run_although_submitted_with_it(tmp_path: Path) -> None:
    """Their demands differ in the amount alone, so nothing but that can tell them apart."""
    ended = run_driver(
        HERE
        + """
        some = [train.options(resources={"tea": n}).remote() for n in (5, 1, 0.5, 5)]
        print(ray.get(some[1:3]))
        ready, rest = ray.wait(some, num_returns=4, timeout=1)
        print(len(ready), len(rest))
        """,
        tmp_path,
    )
    assert ended.lines() == ["['trained', 'trained']", "2 2"]
    (line,) = warnings(ended.err)
    assert "5 tea" in line


def test_what_can_run_is_no_cause_for_alarm(tmp_path: Path) -> None:
    ended = run_driver(
        HERE
        + """
        # Long enough for a warning, had there been a cause.
        nap = ray.remote(num_cpus=2)(time.sleep)
        waits_for_a_slot = [nap.remote(1.5), nap.remote(0)]
        waits_for_an_argument = train.remote(waits_for_a_slot[1])
        print(ray.get(waits_for_an_argument))
        """,
        tmp_path,
    )
    assert ended.lines() == ["trained"]
    assert ended.err == ""


def test_it_runs_when_an_agent_joins_that_can(
    no_cluster: None,  # noqa: ARG001 - nor one afterwards
    caplog: pytest.LogCaptureFixture,
) -> None:
    @ray.remote(num_cpus=3, name="train")
    def train() -> str:
        return "trained"

    agents = Agents()
    try:
        agents.start(1)
        agents.start(2)
        ray.init(agents.address)
        refs = [train.remote(), train.remote()]
        ready: list[Any] = []
        while not caplog.records:
            ready, _ = ray.wait(refs, timeout=0.01)
        assert ready == []
        agents.start(4)
        assert ray.get(refs) == ["trained", "trained"]
        ray.shutdown()
        agents.stop()
    finally:
        ray.shutdown()
        agents.close()
    (record,) = caplog.records
    said = record.getMessage()
    assert "task train asks for 3 CPUs, but no agent offers that: the largest has 2 CPUs" in said
    assert "waits until one joins that does" in said


def test_a_program_that_has_its_own_logging_gets_it_there(tmp_path: Path) -> None:
    ended = run_driver(
        HERE
        + """
        logging.basicConfig(format="%(levelname)s|%(message)s")
        ref = train.options(num_gpus=1).remote()
        sys.stderr.wait_for(1)
        """,
        tmp_path,
    )
    assert "WARNING|cloudray: task train asks for 1 CPU, 1 GPU" in ended.err
