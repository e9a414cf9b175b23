"""An embedded cluster that cannot go on says so to whoever waits, and a new one can be started."""

from __future__ import annotations

import contextlib
import textwrap
from pathlib import Path

import psutil

from tests.chaos.family import Family, wait_until

#: Waits in three ways for what will never be; each is told why. Then starts over.
PROGRAM = """
ray.init(num_cpus=1)
ref = sleep.remote()
future = ref.future()
address, _, _ = ray.get_runtime_context().gcs_address.partition("?")
folder = pathlib.Path(address.removeprefix("file://")).parent
begun = pathlib.Path(os.environ["TMPDIR"]) / "begun"
up()
{hurt}
waits = [lambda: ray.get(ref), future.result, lambda: ray.get(sleep.remote())]
for wait in waits:
    try:
        wait()
    except ray.exceptions.RayError as error:
        print({reason!r} in str(error), flush=True)
        begun.touch()
ray.shutdown()
ray.init(num_cpus=1)
print(ray.get(sleep.remote(0)))
"""


def test_an_agent_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    program = PROGRAM.format(hurt="", reason="times in a row")
    with Family(program, tmp_path) as family:
        family.await_up()

        def kill_agent_until_it_is_given_up() -> bool:
            if (family.temp / "begun").exists():
                return True
            assert family.driver.poll() is None, family.end()
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(family.driver.pid).children():
                    child.kill()
            return False

        wait_until(kill_agent_until_it_is_given_up, family.processes)
        assert family.run() == "True\n" * 3 + "None\n"
        family.check_nothing_is_left()


def test_a_cluster_whose_folder_somebody_removes_is_given_up(tmp_path: Path) -> None:
    hurt = """
    import shutil
    agent = ray.nodes()[0]["pid"]
    os.kill(agent, signal.SIGSTOP)
    shutil.rmtree(folder)
    os.kill(agent, signal.SIGKILL)
    """
    program = PROGRAM.format(hurt=textwrap.dedent(hurt), reason=" ")
    with Family(program, tmp_path) as family:
        family.await_up()
        assert family.run() == "True\n" * 3 + "None\n"
        family.check_nothing_is_left()
