from __future__ import annotations

import configparser
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudray.agent.spec import AgentSpec
from cloudray.cli import worker
from cloudray.keyring import ClusterKey
from cloudray.timing import REMOTE, SHARED_DIRECTORY
from tests.integration.programs import ROOT
from tests.unit.cli.conftest import Ended

Cloudray = Callable[..., Ended]
URL = "s3://bucket/prefix"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AgentSpec, ClusterKey | None]]:
    """The agents that would have been started."""
    agents: list[tuple[AgentSpec, ClusterKey | None]] = []
    monkeypatch.setattr(worker, "become_agent", lambda spec, key: agents.append((spec, key)))
    return agents


@pytest.fixture
def spec_of(
    cloudray: Cloudray, started: list[tuple[AgentSpec, ClusterKey | None]]
) -> Callable[..., AgentSpec]:
    """What `cloudray worker` makes of these words."""

    def make(*words: str) -> AgentSpec:
        ended = cloudray("worker", *words)
        assert ended == Ended(0, "", "")
        return started.pop()[0]

    return make


def test_by_default_it_offers_what_there_is_and_stays(spec_of: Callable[..., AgentSpec]) -> None:
    spec = spec_of(URL)
    assert spec.address == URL
    assert (spec.num_cpus, spec.num_gpus, spec.memory, spec.resources) == (None, 0, None, {})
    assert (spec.idle_timeout_s, spec.drain_timeout_s) == (0, 30)
    assert spec.speaks_as == "cloudray worker"


def test_all_options_reach_the_agent(spec_of: Callable[..., AgentSpec]) -> None:
    spec = spec_of(
        *(URL, "--num-cpus", "1.5", "--num-gpus", "2", "--memory", "2 GB"),
        *("--resources", '{"tag": 2}', "--labels", "zone=a,kind=spot"),
        *("--idle-timeout", "60", "--drain-timeout", "5.5"),
        *("--cache-memory", "100 MB", "--cache-disk", "1GiB", "--code-cache", "0"),
        *("--logging-level", "debug"),
    )
    assert (spec.num_cpus, spec.num_gpus, spec.memory) == (1.5, 2, 2_000_000_000)
    assert (spec.resources, spec.labels) == ({"tag": 2.0}, {"zone": "a", "kind": "spot"})
    assert (spec.idle_timeout_s, spec.drain_timeout_s) == (60, 5.5)
    assert (spec.cache_memory, spec.cache_disk, spec.code_cache) == (100_000_000, 1 << 30, 0)
    assert spec.logging_level == 10


@pytest.mark.parametrize("text", ['{"zone": "a"}', "zone=a", " zone = a "])
def test_tables_are_json_or_pairs(spec_of: Callable[..., AgentSpec], text: str) -> None:
    assert spec_of(URL, "--labels", text).labels == {"zone": "a"}


def test_the_address_may_come_from_the_environment(
    spec_of: Callable[..., AgentSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_ADDRESS", URL)
    assert spec_of().address == URL
    assert spec_of("file:///other").address == "file:///other"


def test_the_address_may_be_a_name_in_the_file(
    spec_of: Callable[..., AgentSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cloudray.toml"
    file.write_text(f'[clusters.lab]\naddress = "{URL}"\n')
    monkeypatch.setenv("CLOUDRAY_CONFIG", str(file))
    assert spec_of("lab").address == URL


def test_the_times_of_a_new_cluster_are_those_of_its_place_unless_said_otherwise(
    spec_of: Callable[..., AgentSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spec_of(URL).timing == REMOTE
    assert spec_of("file:///folder").timing == SHARED_DIRECTORY
    monkeypatch.setenv("CLOUDRAY_SCAN_S", "5")
    timing = spec_of(URL).timing
    assert timing is not None
    assert timing.scan_s == 5


def test_the_key_is_handed_over_and_stands_in_no_argument(
    cloudray: Cloudray,
    started: list[tuple[AgentSpec, ClusterKey | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "crk_" + 43 * "A"
    monkeypatch.setenv("CLOUDRAY_KEY", text)
    assert cloudray("worker", URL).code == 0
    ((spec, key),) = started
    assert key == ClusterKey(text)
    assert text not in repr(spec)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-cpus", "two"], "--num-cpus two: it is no number."),
        (["--num-cpus", "-1"], "--num-cpus -1: The quantity of resource CPU cannot be negative"),
        (["--num-cpus", "nan"], "--num-cpus nan: The quantity of resource CPU must be a finite"),
        (["--num-cpus", "1e30"], "--num-cpus 1e30: The quantity of resource CPU cannot go beyond"),
        (["--num-gpus", "1.5"], "--num-gpus 1.5: GPU resource quantities >1 must be whole"),
        (["--memory", "2 GX"], "--memory 2 GX: '2 GX' is no size"),
        (["--memory", "-1"], "--memory -1: '-1' is no size"),
        (["--cache-disk", "much"], "--cache-disk much: 'much' is no size"),
        (["--resources", "3"], "--resources 3: write it as 'name=value,name=value'"),
        (["--resources", "{tag: 2}"], "--resources {tag: 2}: it is no JSON"),
        (["--resources", "tag=many"], "the quantity of tag must be a number, not 'many'"),
        (["--resources", "tag=-1"], "The quantity of resource tag cannot be negative"),
        (["--resources", "tag=1,tag=2"], "tag stands there twice"),
        (["--resources", "CPU=1"], "Use the 'num_cpus' and 'num_gpus' keyword"),
        (["--labels", "zone"], "--labels zone: write it as"),
        (["--labels", "my zone=a"], "Invalid label key name `my zone`"),
        (["--labels", '{"zone": 1}'], "must be of type Dict[str, str]"),
        (["--labels", "zone=a b"], "Invalid label value `a b`"),
        (["--idle-timeout", "-1"], "--idle-timeout -1: it is a number of seconds, 0 or more"),
        (["--drain-timeout", "inf"], "--drain-timeout inf: it is a number of seconds"),
        (["--logging-level", "loud"], "--logging-level loud: level='loud' is no level"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_quantities_are_refused_before_anything_is_written(
    cloudray: Cloudray,
    started: list[tuple[AgentSpec, ClusterKey | None]],
    tmp_path: Path,
    words: list[str],
    said: str,
) -> None:
    ended = cloudray("worker", f"file://{tmp_path}/cluster", *words)
    assert ended.code == 2
    (line,) = ended.errors.splitlines()
    assert line.startswith("cloudray worker: ")
    assert said in line
    assert started == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which cluster? Name one, e.g. s3://bucket/prefix"),
        (["local"], "which cluster?"),
        (["lab"], "There is no cluster 'lab'"),
    ],
)
def test_who_names_no_cluster_is_told_how(
    cloudray: Cloudray,
    started: list[tuple[AgentSpec, ClusterKey | None]],
    words: list[str],
    said: str,
) -> None:
    ended = cloudray("worker", *words)
    assert ended.code == 2
    assert said in ended.errors
    assert started == []


# -- the systemd unit ------------------------------------------------------------------------


def unit() -> configparser.SectionProxy:
    """The section of the service in `deploy/cloudray-worker.service`."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment] # as configparser's documentation has it
    parser.read(ROOT / "deploy" / "cloudray-worker.service")
    return parser["Service"]


def test_the_command_of_the_systemd_unit_is_one_of_ours(
    spec_of: Callable[..., AgentSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    environment.optionxform = str  # type: ignore[assignment] # as above
    environment.read_string("[worker]\n" + (ROOT / "deploy" / "worker.env").read_text())
    for name, value in environment["worker"].items():
        monkeypatch.setenv(name, value)
    program, command, *words = shlex.split(unit()["ExecStart"])
    assert Path(program).name == "cloudray"
    assert command == "worker"
    assert words.pop() == "$CLOUDRAY_WORKER_OPTIONS"
    spec = spec_of(*words, "--num-cpus", "4", "--labels", "zone=a,kind=spot")
    assert spec.address == environment["worker"]["CLOUDRAY_ADDRESS"]
    # Executors end and the agent says its last words after the drain.
    assert int(unit()["TimeoutStopSec"]) >= spec.drain_timeout_s + 25
