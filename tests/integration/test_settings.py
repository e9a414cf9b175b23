"""Settings from arguments, environment and the user's file, and what `settings` says of them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray import configuration, platform
from cloudray.api import session
from tests.integration.clusters import Embedded
from tests.integration.drivers import run_driver

PROGRAM = """
    import cloudray as ray

    @ray.remote
    def colour():
        import os
        return os.environ.get("COLOUR")

    if __name__ == "__main__":
        {before}
        ray.init({arguments})
        settings = ray.settings()
        print(ray.cluster_resources()["CPU"], settings["num_cpus"], settings.source("num_cpus"))
        print(ray.get(colour.remote()), settings.source("env_vars"))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that settings may lie in."""
    home = tmp_path / "home"
    home.mkdir()
    return home


def write(home: Path, text: str) -> Path:
    path = home / "cloudray.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def run(
    tmp_path: Path, home: Path, arguments: str = "", before: str = "", **env: str
) -> list[list[str]]:
    """What the program says of a cluster that its settings made, word by word."""
    program = PROGRAM.format(arguments=arguments, before=before)
    places = {"XDG_CONFIG_HOME": str(home), "CLOUDRAY_CONFIG": ""}
    printed = run_driver(program, tmp_path, env=places | env).lines()
    return [line.split(maxsplit=2) for line in printed]


def started_here() -> list[Path]:
    """The folders of clusters that this process started and that are still there."""
    mine = f"*cloudray-{os.getuid()}-{os.getpid()}-*"
    return list(platform.memory_folder().glob(mine))


def test_init_heeds_the_users_file(tmp_path: Path, home: Path) -> None:
    path = write(home, "[embedded]\nnum_cpus = 3\n[runtime_env]\nenv_vars = { COLOUR = 'red' }\n")
    cpus, colour = run(tmp_path, home)
    assert cpus == ["3.0", "3.0", f"file {path}"]
    assert colour == ["red", "file", str(path)]


def test_init_heeds_the_environment_before_the_file(tmp_path: Path, home: Path) -> None:
    write(home, "[embedded]\nnum_cpus = 3\n")
    cpus, colour = run(tmp_path, home, CLOUDRAY_NUM_CPUS="2")
    assert cpus == ["2.0", "2.0", "environment CLOUDRAY_NUM_CPUS"]
    assert colour == ["None", "default"]


def test_init_heeds_its_arguments_before_all_else(tmp_path: Path, home: Path) -> None:
    write(home, "[embedded]\nnum_cpus = 3\n[runtime_env]\nenv_vars = { COLOUR = 'red' }\n")
    arguments = "num_cpus=1, runtime_env={'env_vars': {'COLOUR': 'blue'}}"
    cpus, colour = run(tmp_path, home, arguments, CLOUDRAY_NUM_CPUS="2")
    assert cpus == ["1.0", "1.0", "argument num_cpus"]
    assert colour[:2] == ["blue", "argument"]


def test_the_first_use_heeds_them_too(tmp_path: Path, home: Path) -> None:
    write(home, "[embedded]\nnum_cpus = 3\n")
    cpus, _ = run(tmp_path, home, "ignore_reinit_error=True", before="ray.nodes()")
    assert cpus[0] == "3.0"


def test_a_mistake_in_the_file_ends_init_with_a_sentence(tmp_path: Path, home: Path) -> None:
    path = write(home, "[embedded]\nnum_cpu = 3\n")
    ended = run_driver(
        "import cloudray as ray\nray.init()\n",
        tmp_path,
        fails=True,
        env={"XDG_CONFIG_HOME": str(home), "CLOUDRAY_CONFIG": ""},
    )
    assert ended.err.splitlines()[-1] == (
        f"ValueError: [embedded] of {path}: there is no setting 'num_cpu'. Did you mean 'num_cpus'?"
    )


def test_a_misspelt_variable_is_told_where_init_is_called(tmp_path: Path) -> None:
    program = "import cloudray as ray\nray.init(num_cpus=1)\n"
    told = run_driver(program, tmp_path, env={"CLOUDRAY_PROGRES": "0"}).err
    assert "driver.py:2: UserWarning: The environment variable CLOUDRAY_PROGRES is no" in told
    assert "Did you mean CLOUDRAY_PROGRESS?" in told


@pytest.mark.usefixtures("no_cluster")
def test_before_init_settings_are_what_would_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDRAY_NUM_CPUS", "3")
    settings = ray.settings()
    assert settings["num_cpus"] == 3
    assert settings.source("num_cpus") == "environment CLOUDRAY_NUM_CPUS"
    assert settings["address"] is None
    assert settings["lease_s"] == 2
    assert not ray.is_initialized()


def test_after_init_settings_are_what_holds(
    own_cluster: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = own_cluster(num_cpus=1, memory="1 GB", runtime_env={"env_vars": {"TOKEN": "secret"}})
    monkeypatch.setenv("CLOUDRAY_NUM_CPUS", "3")
    settings = ray.settings()
    assert (settings["num_cpus"], settings.source("num_cpus")) == (1, "argument num_cpus")
    assert settings["memory"] == ray.cluster_resources()["memory"] == 10**9
    assert settings["address"].startswith(f"file://{cluster.folder}/store?durable=false&")
    assert settings["env_vars"] == {"TOKEN": "secret"}
    cluster.end()
    assert ray.settings()["num_cpus"] == 3


def test_what_init_leaves_open_is_what_the_cluster_made_of_it(
    own_cluster: Callable[..., Embedded],
) -> None:
    own_cluster()
    settings = ray.settings()
    assert settings["num_cpus"] == ray.cluster_resources()["CPU"]
    assert settings["memory"] == ray.cluster_resources()["memory"]
    assert settings["object_store_memory"] > 0
    assert settings.source("num_cpus") == "default"


def test_room_for_values_is_set_like_everything_else(
    own_cluster: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUDRAY_OBJECT_STORE_MEMORY", "300 MB")
    own_cluster(num_cpus=1, object_spilling_directory=tmp_path)
    settings = ray.settings()
    assert settings["object_store_memory"] == 300_000_000
    assert settings["object_spilling_directory"] == str(tmp_path)
    joined = session.joined()
    assert joined is not None
    assert "memory=300000000&" in joined.address


@pytest.mark.usefixtures("cluster")
def test_settings_cannot_be_changed() -> None:
    settings: Any = ray.settings()
    with pytest.raises(TypeError):
        settings["num_cpus"] = 3


def test_settings_are_shown_as_a_table_without_secrets(
    own_cluster: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_NAMESPACE", "<evening>")
    own_cluster(num_cpus=1, runtime_env={"env_vars": {"TOKEN": "secret"}})
    shown = repr(ray.settings()).splitlines()
    assert shown[0].split() == ["setting", "value", "from"]
    assert [line.split()[0] for line in shown[1:-1]] == list(ray.settings())
    short = [line for line in shown[1:-1] if not line.startswith("address ")]
    starts = {line.index(ray.settings().source(line.split()[0])) for line in short}
    assert starts == {shown[0].index("from")}
    assert shown[-1] == f"The file of settings is {os.devnull}."
    html = ray.settings()._repr_html_()
    assert html.count("<tr>") == len(shown) - 1
    assert "&lt;evening&gt;" in html
    assert "TOKEN" in html
    assert not any("secret" in text for text in (*shown, html))


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_has_a_name_in_the_file_and_times_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (tmp_path / "shared").as_uri()
    path = write(tmp_path, f"[timing]\ncommit_s = 0.2\n[clusters.evening]\naddress = '{address}'\n")
    monkeypatch.setenv("CLOUDRAY_CONFIG", str(path))
    with ray.init("evening"):
        pass
    # The first to join has written the times down; who comes later has no say.
    monkeypatch.setenv("CLOUDRAY_COMMIT_S", "0.3")
    monkeypatch.setenv("CLOUDRAY_NUM_CPUS", "3")
    with ray.init("evening"):
        settings = ray.settings()
    assert settings["address"] == address
    assert settings.source("address") == f"argument address, [clusters.evening] of {path}"
    assert (settings["commit_s"], settings.source("commit_s")) == (0.2, f"cluster {address}")
    assert settings["lease_s"] == 3
    assert settings["num_cpus"] is None


def test_an_embedded_cluster_keeps_the_times_of_its_settings(
    own_cluster: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_COMMIT_S", "0.2")
    own_cluster(num_cpus=1)
    joined = session.joined()
    assert joined is not None
    assert (joined.client.settings.commit_s, joined.client.settings.lease_s) == (0.2, 2.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_cpus": "2"}, TypeError, "'num_cpus' must be"),
        ({"num_cpus": -1}, ValueError, "num_cpus cannot be negative"),
        ({"object_store_memory": "much"}, ValueError, "object_store_memory='much' is no size"),
        ({"resources": {"CPU": 1}}, ValueError, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ({"address": "evening"}, ValueError, "There is no cluster 'evening'"),
        ({"address": "s3://bucket", "num_gpus": 1}, ValueError, "num_gpus must not be provided"),
        ({"num_cpu": 2}, RuntimeError, "Unknown keyword argument.* num_cpu.* mean 'num_cpus'"),
        ({"_memory": 2, "memory": 2}, ValueError, "_memory is Ray's name of memory: give only"),
        ({"_memory": "much"}, ValueError, "memory='much' is no size"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_cluster")
def test_init_refuses_before_anything_is_made(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ray.init(**arguments)
    assert not ray.is_initialized()
    assert started_here() == []


def test_what_ray_calls_otherwise_is_heeded_under_its_name_too(
    own_cluster: Callable[..., Embedded], tmp_path: Path
) -> None:
    own_cluster(num_cpus=1, _memory=10**9, _object_spilling_directory=str(tmp_path))
    assert ray.cluster_resources()["memory"] == 10**9
    assert ray.settings()["object_spilling_directory"] == str(tmp_path)


@pytest.mark.usefixtures("no_cluster")
def test_an_address_in_the_environment_contradicts_an_offer_unless_local_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_ADDRESS", tmp_path.as_uri())
    with pytest.raises(ValueError, match="comes from environment CLOUDRAY_ADDRESS"):
        ray.init(num_cpus=1)
    ray.init("local", num_cpus=1)
    assert ray.cluster_resources()["CPU"] == 1


@pytest.mark.usefixtures("no_cluster")
def test_an_init_that_fails_leaves_no_settings_behind() -> None:
    with pytest.raises(ValueError, match="'ray://head:10001' is no address"):
        ray.init("ray://head:10001", progress=False, runtime_env={"env_vars": {"A": "1"}})
    assert configuration.sources() is None
    assert ray.settings()["progress"] is True
    ray.init(num_cpus=1)
    assert ray.get_runtime_context().runtime_env == {}


def test_a_second_init_changes_no_setting(own_cluster: Callable[..., Embedded]) -> None:
    own_cluster(num_cpus=1, progress=False)
    ray.init(num_cpus=2, progress=True, ignore_reinit_error=True)
    assert (ray.settings()["num_cpus"], ray.settings()["progress"]) == (1, False)
    with pytest.raises(TypeError, match="'num_cpus' must be"):
        ray.init(num_cpus="2", ignore_reinit_error=True)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_cluster")
def test_the_file_may_say_that_the_first_use_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "enable_auto_connect = false\n")
    monkeypatch.setenv("CLOUDRAY_CONFIG", str(path))
    with pytest.raises(RuntimeError, match=f"enable_auto_connect is false in {path}: call"):
        _ = ray.put(1)
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_cluster")
def test_in_a_folded_log_rays_variable_and_ours_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    ray.init(num_cpus=1)
    assert configuration.current().dedup_logs is False


@pytest.mark.usefixtures("cluster")
def test_a_task_may_ask_for_settings() -> None:
    @ray.remote
    def ask() -> tuple[str, int]:
        settings = ray.settings()
        return settings["traceback"], len(settings)

    assert ray.get(ask.remote()) == ("short", len(ray.settings()))
