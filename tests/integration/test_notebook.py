"""Notebook habits: run a cell again, change a function, interrupt, carry on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from tests.integration.programs import ROOT

ANSWER_S = 60


class Kernel:
    """A running kernel, with a cluster in it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client

    def start(self, code: str) -> str:
        """Start a cell without waiting for it; returns the id of the request."""
        return str(self._client.execute(code))

    def interrupt(self) -> None:
        """What the stop button does."""
        self._manager.interrupt_kernel()

    def messages(self, request: str) -> Iterator[tuple[str, dict[str, str]]]:
        """What the cell sends (kind, content), until the kernel is idle again."""
        while True:
            message = self._client.get_iopub_msg(timeout=ANSWER_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return
            yield kind, content

    def run(self, code: str) -> str:
        """Run a cell and return what it prints; fails with its traceback if it raises."""
        printed = []
        for kind, content in self.messages(self.start(code)):
            assert kind != "error", "\n".join(content["traceback"])
            if kind == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
        return "".join(printed)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    kernel = Kernel(manager, client)
    try:
        kernel.run("import cloudray as ray\nray.init()")
        yield kernel
        kernel.run("ray.shutdown()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_cell_runs_again(kernel: Kernel) -> None:
    cell = """
@ray.remote
def double(number):
    return 2 * number

print(ray.get([double.remote(number) for number in range(3)]))
"""
    assert [kernel.run(cell) for _ in range(3)] == ["[0, 2, 4]\n"] * 3


def test_the_newest_definition_of_a_function_runs(kernel: Kernel) -> None:
    cell = """
@ray.remote
def version():
    return {}

print(ray.get(version.remote()))
"""
    assert [kernel.run(cell.format(number)) for number in (1, 2)] == ["1\n", "2\n"]


def test_a_task_sees_the_newest_helper_it_calls(kernel: Kernel) -> None:
    kernel.run("def helper():\n    return 'old'")
    task = "@ray.remote\ndef call_helper():\n    return helper()"
    kernel.run(task)
    assert kernel.run("print(ray.get(call_helper.remote()))") == "old\n"
    kernel.run("def helper():\n    return 'new'")
    kernel.run(task)
    assert kernel.run("print(ray.get(call_helper.remote()))") == "new\n"


def test_an_interrupted_get_leaves_everything_usable(kernel: Kernel) -> None:
    kernel.run(
        """
import time

@ray.remote
def wait_for(seconds):
    time.sleep(seconds)
    return seconds
"""
    )
    request = kernel.start("blocked = wait_for.remote(3600)\nprint('waiting')\nray.get(blocked)")
    errors = []
    for kind, content in kernel.messages(request):
        if kind == "stream" and "waiting" in content["text"]:
            kernel.interrupt()
        if kind == "error":
            errors.append(content["ename"])
    assert errors == ["KeyboardInterrupt"]
    kernel.run("ray.cancel(blocked, force=True)")
    assert kernel.run("print(ray.get(wait_for.remote(0)))") == "0\n"


def test_a_long_wait_shows_progress_in_the_cell_that_waits_and_leaves_nothing(
    kernel: Kernel, tmp_path: Path
) -> None:
    kernel.run(
        f"""
import os, time

@ray.remote
def brew(number):
    while not os.path.exists(f"{tmp_path}/gate-{{number}}"):
        time.sleep(0.002)
    return number
"""
    )
    shown: list[str] = []
    printed = []
    for kind, content in kernel.messages(
        kernel.start("print(ray.get([brew.remote(number) for number in range(3)]))")
    ):
        if kind in {"display_data", "update_display_data"}:
            shown.append(content["data"]["text/html"])  # type: ignore[index]
            if len(shown) == 1:
                tmp_path.joinpath("gate-0").touch()
            elif "1/3 done" in shown[-1]:
                tmp_path.joinpath("gate-1").touch()
                tmp_path.joinpath("gate-2").touch()
        elif kind == "stream":
            printed.append(content["text"])
    assert "".join(printed) == "[0, 1, 2]\n"
    assert "<progress value='0' max='3'>" in shown[0]
    assert any("1/3 done" in text for text in shown)
    assert shown[-1] == ""


def test_an_interrupted_wait_leaves_no_progress_behind(kernel: Kernel) -> None:
    kernel.run("import time\n\n@ray.remote(num_cpus=0)\ndef wait():\n    time.sleep(3600)")
    shown: list[str] = []
    errors = []
    for kind, content in kernel.messages(kernel.start("ray.get(wait.remote())")):
        if kind in {"display_data", "update_display_data"}:
            shown.append(content["data"]["text/html"])  # type: ignore[index]
            if len(shown) == 1:
                kernel.interrupt()
        elif kind == "error":
            errors.append(content)
    assert shown[-1] == ""
    (error,) = errors
    assert error["ename"] == "KeyboardInterrupt"
    assert not any("cloudray/" in line for line in error["traceback"])


def test_the_first_line_of_a_cluster_is_no_error(kernel: Kernel) -> None:
    request = kernel.start("ray.shutdown()\nray.init(num_cpus=1)")
    seen = [
        (kind, content["data"])
        for kind, content in kernel.messages(request)
        if kind in {"display_data", "execute_result", "stream"}
    ]
    (first, line), (second, result) = seen
    assert (first, second) == ("display_data", "execute_result")
    assert line["text/plain"].startswith("cloudray: embedded cluster, 1 CPU, ")  # type: ignore[index]
    assert result["text/plain"].startswith("ClusterContext(address='file://")  # type: ignore[index]
    assert "<th style='text-align: left'>address</th>" in result["text/html"]  # type: ignore[index]
