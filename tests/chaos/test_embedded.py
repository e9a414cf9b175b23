"""The embedded cluster when its parts are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import cloudray as ray
from cloudray import platform

PATIENCE_S = 30.0


def folders(driver: int) -> list[Path]:
    """The folders of a driver's clusters."""
    places = {platform.memory_folder(), platform.spill_folder()}
    return [path for at in places for path in at.glob(f"*cloudray-{os.getuid()}-{driver}-*")]


def test_an_agent_that_is_killed_is_replaced_and_its_work_finishes() -> None:
    ray.init(num_cpus=2)
    try:

        @ray.remote
        def slow(number: int) -> int:
            time.sleep(0.02)
            return number

        refs = [slow.remote(number) for number in range(100)]
        ray.wait(refs, num_returns=10)
        agent = psutil.Process(ray.nodes()[0]["pid"])
        agent.kill()
        assert ray.get(refs, timeout=60) == list(range(100))
        assert [node["pid"] for node in ray.nodes()] != [agent.pid]
    finally:
        ray.shutdown()


@pytest.mark.parametrize("end", ["exit", "exception", "SIGTERM", "SIGINT", "SIGKILL"])
def test_nothing_is_left_however_the_driver_ends(tmp_path: Path, end: str) -> None:
    ready = tmp_path / "ready"
    script = f"""
import os, pathlib, signal, time, psutil
import cloudray as ray
# As from a terminal: whoever runs in the background has inherited that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
ray.init(num_cpus=2)
@ray.remote
def sleep():
    time.sleep(600)
refs = [sleep.remote() for _ in range(4)]
ray.wait(refs, timeout=1.0)
family = [process.pid for process in psutil.Process().children(recursive=True)]
pathlib.Path({str(ready)!r}).write_text(" ".join(map(str, family)))
if {end!r} == "exit":
    raise SystemExit
if {end!r} == "exception":
    raise ValueError
ray.get(refs)
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as driver:
        wait_for(lambda: ready.exists() and ready.read_text())
        if end.startswith("SIG"):
            driver.send_signal(getattr(signal, end))
        driver.wait(60)
    family = [int(pid) for pid in ready.read_text().split()]
    assert len(family) >= 4
    wait_for(lambda: not any(runs(pid) for pid in family))
    wait_for(lambda: not folders(driver.pid))


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.01)
