"""A driver on Windows, as far as we can tell: nothing that only Unix has is asked for.

Its cluster is a bucket, and the agents that serve it run on Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudray.protocol.joining import join
from cloudray.store import Reliable, drive, open_store
from cloudray.timing import Timing
from tests.compat.switching import switch
from tests.integration.drivers import environment

#: Short, so that what is only looked for now and then is found soon.
TIMING = Timing(heartbeat_s=1.0, lease_s=10.0, commit_s=0.1, scan_s=0.5)
PACKAGE = Path(__file__).parents[2] / "cloudray"
#: What a driver is made of. A directory as a store, and what embeds a cluster, are for Unix.
LAYERS = ("api", "driver", "protocol", "values", "store")
ONLY_UNIX = {
    "cloudray.store.account",
    "cloudray.store.directory",
    "cloudray.store.files",
}


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Under which Python looks as on Windows."""
    return switch(tmp_path / "site", "windows")


def run(program: str, variables: dict[str, str], *, status: int = 0) -> str:
    """Run a program on Windows; returns what it printed, or its last line on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(**variables),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()[-1] if status else done.stdout


def driver_modules() -> Iterator[str]:
    for layer in LAYERS:
        for path in sorted((PACKAGE / layer).glob("*.py")):
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            if name not in ONLY_UNIX:
                yield name.removesuffix(".__init__")


def test_everything_a_driver_needs_can_be_imported(variables: dict[str, str]) -> None:
    program = f"""
    import importlib
    import cloudray
    for name in cloudray.__all__:
        getattr(cloudray, name)
    for name in {list(driver_modules())}:
        importlib.import_module(name)
    print("done")
    """
    assert run(program, variables) == "done\n"


@pytest.mark.parametrize(
    "use",
    ["import fcntl", "import os; os.fork()", "import socket; socket.AF_UNIX", "import uvloop"],
)
def test_what_only_unix_has_is_not_there(variables: dict[str, str], use: str) -> None:
    assert run(use, variables, status=1).startswith(("ModuleNotFoundError", "AttributeError"))


def test_an_embedded_cluster_is_refused_with_the_way_to_go_on(variables: dict[str, str]) -> None:
    said = run("import cloudray; cloudray.init()", variables, status=1)
    assert "needs Linux, macOS or WSL" in said
    assert "`wsl --install`" in said
    assert 'cloudray.init("s3://bucket/prefix")' in said


def test_so_is_one_that_would_start_by_itself(variables: dict[str, str]) -> None:
    program = "import cloudray; cloudray.remote(len).remote([])"
    assert "needs Linux, macOS or WSL" in run(program, variables, status=1)


def test_a_cluster_in_a_directory_is_refused_with_the_way_to_go_on(
    variables: dict[str, str], tmp_path: Path
) -> None:
    said = run(f"import cloudray; cloudray.init({tmp_path.as_uri()!r})", variables, status=1)
    assert "a cluster in a directory needs Linux, macOS or WSL" in said


def test_a_worker_is_refused_with_the_way_to_go_on(variables: dict[str, str]) -> None:
    program = """
    import runpy, sys
    sys.argv[1:] = ["worker", "s3://bucket"]
    runpy.run_module("cloudray", run_name="__main__")
    """
    said = run(program, variables, status=1)
    assert "a worker needs Linux, macOS or WSL" in said


@pytest.fixture
def cluster(bucket_url: Callable[[], str]) -> Iterator[str]:
    """The address of a cluster in a bucket, which an agent on Linux serves."""
    address = bucket_url()
    drive(Reliable(open_store(address)), join(address, TIMING))
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as sockets,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "cloudray", "worker", address, "--num-cpus", "2"],
            env=environment(XDG_RUNTIME_DIR=sockets),
        ) as agent,
    ):
        yield address
        agent.terminate()


def test_a_driver_works_with_a_cluster_in_a_bucket(variables: dict[str, str], cluster: str) -> None:
    program = f"""
    import cloudray as ray

    ray.init({cluster!r})

    @ray.remote
    def add(first, second):
        return first + second

    @ray.remote(max_retries=0)
    def fail():
        print("from the agent")
        raise ValueError("out of tea")

    large = ray.put(bytes(1_000_000))
    refs = [add.remote(number, 1) for number in range(20)]
    total = add.remote(refs[0], refs[-1])
    ready, rest = ray.wait([total], timeout=60)
    print(ray.get(refs) == list(range(1, 21)), ray.get(total), len(ready), len(rest))
    print(len(ray.get(add.remote(large, b"!"))), add.remote(1, 2).future().result())
    try:
        ray.get(fail.remote())
    except ValueError as error:
        print("out of tea" in str(error))
    print(len(ray.nodes()))
    ray.shutdown()
    """
    assert run(program, variables) == "True 21 1 0\n1000001 3\nTrue\n1\n"
