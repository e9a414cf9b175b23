"""Code goes where its tasks run: agents here see none of the driver's files."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.buckets import CALM, create_cluster, credentials
from tests.integration.drivers import environment, run_driver
from tests.integration.machines import HOST, machine, why_no_machines

_WHY_NOT = why_no_machines()
#: What the programs have in common.
BEGIN = """
import json, os, sys
import cloudray as ray
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster in a bucket, whose only machine sees nothing of this one."""
    if _WHY_NOT:
        pytest.skip(_WHY_NOT)
    with servers.moto() as server, credentials():
        address = server.address("cluster")
        create_cluster(address, CALM)
        base = tmp_path_factory.getbasetemp()
        log = tmp_path_factory.mktemp("agents") / "log"
        with machine(address, log, base, agents=2):
            yield address


def write(folder: Path, **sources: str) -> None:
    """Files whose names have `__` for a slash, and `.py` at their end."""
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/')}.py".replace("/init.py", "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


def run(address: str, folder: Path, program: str, *, fails: bool = False, **env: str) -> Any:
    """What a program says by `say`, or its errors if it fails; it is a script in `folder`."""
    begin = BEGIN + f"ADDRESS = {address!r}\ndef say(it): print(json.dumps(it))\n"
    env["XDG_CACHE_HOME"] = str(folder / "cache")
    ended = run_driver(begin + textwrap.dedent(program), folder, fails=fails, env=env)
    return ended.err if fails else json.loads(ended.out.splitlines()[-1])


# -- without being asked -----------------------------------------------------------------------


def test_what_lies_beside_the_script_is_there(elsewhere: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        helper="import deeper\nclass Cup:\n    size = 3\ndef where(): return __file__, deeper.A",
        deeper="A = 1",
        late="B = 2",
        pack__init="",
        pack__later="C = 4",
    )
    found = run(
        elsewhere,
        tmp_path,
        """
        import helper

        @ray.remote
        def look(cup):
            import late, pack.later
            open("written", "w").close()
            return [*helper.where(), late.B, pack.later.C, cup.size, os.listdir()]

        ray.init(ADDRESS, progress=False)
        say(ray.get([look.remote(helper.Cup()) for _ in range(20)], timeout=60))
        """,
    )
    for file, *rest in found:
        assert not file.startswith(str(tmp_path))
        assert rest == [1, 2, 4, 3, ["written"]]


def test_a_package_from_elsewhere_travels_as_a_whole(elsewhere: str, tmp_path: Path) -> None:
    lib, app = tmp_path / "lib", tmp_path / "app"
    app.mkdir()
    write(lib, tea__init="from tea import _version", tea___version="V = 7", tea__cup="W = 8")
    (lib / "tea/leaves.txt").write_text("green")
    (lib / ".gitignore").write_text("_version.py\n")
    program = f"""
    sys.path.insert(0, {str(lib)!r})
    import tea

    @ray.remote
    def look():
        import importlib.resources
        import tea.cup
        return tea._version.V, tea.cup.W, importlib.resources.read_text("tea", "leaves.txt")

    ray.init(ADDRESS, progress=False)
    say(ray.get(look.remote(), timeout=60))
    """
    assert run(elsewhere, app, program) == [7, 8, "green"]


def test_what_is_imported_after_a_call_is_there_for_the_next(
    elsewhere: str, tmp_path: Path
) -> None:
    lib, app = tmp_path / "lib", tmp_path / "app"
    app.mkdir()
    write(lib, tea="class Cup:\n    size = 3")
    program = f"""
    @ray.remote
    def size_of(cup):
        return cup and cup.size

    ray.init(ADDRESS, progress=False)
    first = ray.get(size_of.remote(None), timeout=60)
    sys.path.insert(0, {str(lib)!r})
    import tea
    say([first, ray.get(size_of.remote(tea.Cup()), timeout=60)])
    """
    assert run(elsewhere, app, program) == [None, 3]


def test_what_has_changed_is_new_after_the_next_init(elsewhere: str, tmp_path: Path) -> None:
    write(tmp_path, helper="A = 1")
    program = """
    import importlib, pathlib
    import helper

    @ray.remote
    def look():
        return helper.A

    found = []
    for number in (1, 2):
        with ray.init(ADDRESS, progress=False):
            found.append(ray.get(look.remote(), timeout=60))
        pathlib.Path(helper.__file__).write_text("A = 'changed'")
    say(found)
    """
    assert run(elsewhere, tmp_path, program) == [1, "changed"]


def test_a_module_that_did_not_travel_is_named_with_what_to_do(
    elsewhere: str, tmp_path: Path
) -> None:
    write(tmp_path, helper="def f(): return 1")
    told = run(
        elsewhere,
        tmp_path,
        """
        import helper
        ray.init(ADDRESS, progress=False)
        ray.get(ray.remote(helper.f).remote(), timeout=60)
        """,
        fails=True,
        CLOUDRAY_SEND_CODE="0",
    )
    assert f"There is no module 'helper' on {HOST}: install it where the workers run" in told
    assert "runtime_env={'py_modules': ['path/of/helper']}" in told


# -- asked for ---------------------------------------------------------------------------------


def test_a_working_directory_is_each_executors_own(elsewhere: str, tmp_path: Path) -> None:
    project, app = tmp_path / "project", tmp_path / "app"
    app.mkdir()
    write(project, code="A = 5")
    (project / "data.txt").write_text("data")
    (project / "big.bin").write_text("ignored")
    (project / ".gitignore").write_text("*.bin\n")
    program = f"""
    import time

    @ray.remote
    def look(number):
        import code
        seen = sorted(os.listdir())
        with open("data.txt") as file:
            data = file.read()
        with open("data.txt", "w") as file:
            file.write(str(number))
        with open(f"mine-{{os.getpid()}}", "w"):
            pass
        time.sleep(0.2)
        with open("data.txt") as file:
            return os.getpid(), getattr(code, "A", None), seen, data, file.read() == str(number)

    ray.init(ADDRESS, progress=False, runtime_env={{"working_dir": {str(project)!r}}})
    say(ray.get([look.remote(number) for number in range(8)], timeout=60))
    """
    results = run(elsewhere, app, program)
    first_of: dict[int, tuple[list[str], str]] = {}
    for pid, value, seen, data, undisturbed in results:
        assert value == 5
        assert undisturbed
        assert "big.bin" not in seen
        assert {name for name in seen if name.startswith("mine")} <= {f"mine-{pid}"}
        if f"mine-{pid}" not in seen:
            first_of[pid] = seen, data
    assert len(first_of) == len({pid for pid, *_ in results}) >= 2
    for seen, data in first_of.values():
        assert [name for name in seen if not name.startswith("__")] == [
            ".gitignore",
            "code.py",
            "data.txt",
        ]
        assert data == "data"


def test_modules_wheels_and_archives_can_be_imported(elsewhere: str, tmp_path: Path) -> None:
    parts, app = tmp_path / "parts", tmp_path / "app"
    app.mkdir()
    write(parts, pack__init="A = 1", single="B = 2", module="C = 3")
    with zipfile.ZipFile(parts / "pot-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pot.py", "D = 4")
        wheel.writestr("pot-1.dist-info/WHEEL", "Wheel-Version: 1.0")
        wheel.writestr("pot-1.dist-info/METADATA", "Name: pot\nVersion: 1\n")
    with zipfile.ZipFile(parts / "sink.zip", "w") as archive:
        archive.writestr("sink-main/sink/__init__.py", "E = 5")
    program = f"""
    parts = {str(parts)!r}
    sys.path.append(parts)
    import module
    env = {{"py_modules": [parts + "/pack", parts + "/single.py", module,
           parts + "/pot-1-py3-none-any.whl", parts + "/sink.zip"]}}

    @ray.remote(runtime_env=env)
    def look():
        import importlib.metadata, pack, single, module, pot, sink
        return pack.A, single.B, module.C, pot.D, sink.E, importlib.metadata.version("pot")

    ray.init(ADDRESS, progress=False)
    say(ray.get(look.remote(), timeout=60))
    """
    assert run(elsewhere, app, program) == [1, 2, 3, 4, 5, "1"]


def test_code_may_lie_in_the_bucket(elsewhere: str, tmp_path: Path) -> None:
    bucket = "/".join(elsewhere.split("/")[:3])
    program = f"""
    import io, zipfile
    import fsspec
    endpoint = ADDRESS.partition("endpoint=")[2].partition("&")[0]
    files = fsspec.filesystem("s3", endpoint_url=endpoint)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("project-main/code.py", "A = 1")
        archive.writestr("project-main/data.txt", "data")
    files.pipe("{bucket}/code/project.zip", body.getvalue())
    files.pipe("{bucket}/code/tea/__init__.py", b"B = 2")
    env = {{"working_dir": "{bucket}/code/project.zip", "py_modules": ["{bucket}/code/tea"]}}

    @ray.remote(runtime_env=env)
    def look():
        import code, tea
        with open("data.txt") as file:
            return code.A, tea.B, file.read()

    ray.init(ADDRESS, progress=False)
    say(ray.get(look.remote(), timeout=60))
    """
    assert run(elsewhere, tmp_path, program) == [1, 2, "data"]


def test_what_a_task_calls_has_its_code(elsewhere: str, tmp_path: Path) -> None:
    parts, app = tmp_path / "parts", tmp_path / "app"
    app.mkdir()
    write(parts, tea="A = 1", cup="B = 2")
    program = f"""
    parts = {str(parts)!r}

    def look():
        found = []
        for name in ("tea", "cup"):
            try:
                __import__(name)
                found.append(name)
            except ModuleNotFoundError:
                pass
        return found

    same = ray.remote(look)
    other = ray.remote(runtime_env={{"py_modules": [parts + "/cup.py"]}})(look)

    @ray.remote(runtime_env={{"py_modules": [parts + "/tea.py"]}})
    def call():
        with open("made.py", "w") as file:
            file.write("C = 3")

        @ray.remote(runtime_env={{"py_modules": ["made.py"]}})
        def look_for_made():
            import made
            return made.C

        return ray.get([same.remote(), other.remote(), look_for_made.remote()])

    ray.init(ADDRESS, progress=False)
    say(ray.get(call.remote(), timeout=60))
    """
    assert run(elsewhere, app, program) == [["tea"], ["cup"], 3]


def test_a_package_that_is_gone_fails_its_tasks_and_no_others(
    elsewhere: str, tmp_path: Path
) -> None:
    program = """
    from cloudray.driver.storing import Storing
    from cloudray.exceptions import RuntimeEnvSetupError

    @ray.remote
    def look(*_):
        return 1

    with open("cup.py", "w") as file:
        file.write("LOST = True")
    assert Storing.code
    Storing.code = lambda *_: None
    ray.init(ADDRESS, progress=False)
    lost = look.options(runtime_env={"py_modules": ["cup.py"]})
    refs = [lost.remote(number) for number in range(5)]
    told = []
    for ref in refs:
        try:
            ray.get(ref, timeout=60)
        except RuntimeEnvSetupError as error:
            told.append(str(error))
    say([told, ray.get(look.remote(), timeout=60)])
    """
    begin = "import cloudray.driver.luggage as l\nl.Luggage._look = lambda *_: ()\n"
    told, other = run(elsewhere, tmp_path, begin + textwrap.dedent(program))
    assert other == 1
    assert len(told) == 5
    for one in told:
        assert "Failed to set up runtime environment" in one
        assert f"cup.py could not be made ready on {HOST}: it is not in the store" in one


def test_too_much_is_refused_before_anything_is_stored(elsewhere: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "weights.bin").write_bytes(bytes(range(256)) * 40_000)
    program = f"""
    @ray.remote
    def look():
        return 1

    ray.init(ADDRESS, progress=False, runtime_env={{"working_dir": {str(project)!r}}})
    try:
        look.remote()
    except ValueError as error:
        say(str(error))
    """
    told = run(elsewhere, tmp_path, program, CLOUDRAY_MAX_CODE_SIZE="1 KB")
    assert "is too large to be sent" in told
    assert "weights.bin (" in told


# -- on this machine ---------------------------------------------------------------------------


def test_an_agent_that_sees_the_drivers_files_uses_them(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/cluster?durable=false"
    create_cluster(address, CALM)
    app = tmp_path / "app"
    write(app, helper="from pathlib import Path\nHERE = Path(__file__).parent")
    (app / "data.txt").write_text("data")
    places = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "agents")}
    agent = subprocess.Popen(
        [sys.executable, "-m", "cloudray", "worker", address, "--num-cpus", "1"],
        env=environment(**places),
    )
    try:
        program = """
        import helper

        @ray.remote
        def look():
            return str(helper.HERE), (helper.HERE / "data.txt").read_text(), os.getcwd()

        ray.init(ADDRESS, progress=False)
        say(ray.get(look.remote(), timeout=60))
        """
        assert run(address, app, program) == [str(app), "data", str(app)]
        assert not (tmp_path / "agents").exists()
    finally:
        agent.terminate()
        assert agent.wait(60) == 0


def test_an_embedded_cluster_stores_no_code_unasked(tmp_path: Path) -> None:
    write(tmp_path, helper="import os\ndef where(): return __file__, os.getcwd()")
    program = """
    from pathlib import Path
    import helper
    where = ray.remote(helper.where)
    with ray.init(num_cpus=1, progress=False) as cluster:
        folder = Path(cluster["address"].removeprefix("file://").partition("?")[0])
        found = ray.get(where.remote())
        say([*found, len(list(folder.glob("t*/jobs/*/blobs/*")))])
    """
    assert run("", tmp_path, program) == [str(tmp_path / "helper.py"), str(tmp_path), 1]


def test_an_embedded_cluster_heeds_a_working_directory(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write(project, code="A = 1")
    program = f"""
    @ray.remote
    def look():
        open("new", "w").close()
        return os.getcwd(), ray.get_runtime_context().runtime_env

    env = {{"working_dir": {str(project)!r}}}
    with ray.init(num_cpus=1, progress=False, runtime_env=env):
        say([*ray.get(look.remote()), ray.get_runtime_context().runtime_env])
    """
    where, env, driver_env = run("", tmp_path, program)
    assert not where.startswith(str(project))
    assert not Path(where).exists()
    assert env == driver_env == {"working_dir": str(project)}
    assert [path.name for path in project.iterdir()] == ["code.py"]
