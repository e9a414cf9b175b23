"""Arguments before the environment before the file, and what each of them may not say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudray.api.sources import Resolved, resolve, why_not_by_itself

Write = Callable[[str], dict[str, str]]
NO_FILE = {"CLOUDRAY_CONFIG": os.devnull}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of settings; returns the environment that names it."""

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return {"CLOUDRAY_CONFIG": str(path)}

    return write


def put_together(environ: Mapping[str, str] | None = None, **arguments: Any) -> Resolved:
    return resolve(arguments, NO_FILE | dict(environ or {}))


def test_without_anything_all_are_defaults() -> None:
    resolved = put_together()
    assert resolved.configuration.num_cpus is None
    assert set(resolved.sources.values()) == {"default"}


def test_an_argument_counts_before_the_environment_and_that_before_the_file(write: Write) -> None:
    filed = write("[embedded]\nnum_cpus = 1\nnum_gpus = 1\nmemory = 1\n")
    exported = {"CLOUDRAY_NUM_CPUS": "2", "CLOUDRAY_NUM_GPUS": "2"}
    resolved = resolve({"num_cpus": 3}, filed | exported)
    found = resolved.configuration
    assert (found.num_cpus, found.num_gpus, found.memory) == (3, 2, 1)
    assert resolved.sources["num_cpus"] == "argument num_cpus"
    assert resolved.sources["num_gpus"] == "environment CLOUDRAY_NUM_GPUS"
    assert resolved.sources["memory"] == f"file {filed['CLOUDRAY_CONFIG']}"
    assert resolved.sources["resources"] == "default"


def test_an_argument_that_is_none_is_not_given() -> None:
    resolved = put_together({"CLOUDRAY_LOG_TO_DRIVER": "0"}, log_to_driver=None)
    assert resolved.configuration.log_to_driver is False


def test_a_false_argument_is_given() -> None:
    resolved = put_together({"CLOUDRAY_PROGRESS": "1"}, progress=False)
    assert resolved.configuration.progress is False


def test_an_empty_variable_is_not_set() -> None:
    resolved = put_together({"CLOUDRAY_NUM_CPUS": "", "CLOUDRAY_ADDRESS": ""})
    assert resolved.sources["num_cpus"] == resolved.sources["address"] == "default"


@pytest.mark.parametrize("text", ["1", "true", "True", "YES", "on", " 1 "])
def test_words_that_mean_yes(text: str) -> None:
    assert put_together({"CLOUDRAY_PROGRESS": text}).configuration.progress is True


@pytest.mark.parametrize("text", ["0", "false", "False", "NO", "off"])
def test_words_that_mean_no(text: str) -> None:
    assert put_together({"CLOUDRAY_PROGRESS": text}).configuration.progress is False


@pytest.mark.parametrize(
    ("variable", "text", "name", "kept"),
    [
        ("CLOUDRAY_NUM_CPUS", "4", "num_cpus", 4.0),
        ("CLOUDRAY_NUM_CPUS", "0.5", "num_cpus", 0.5),
        ("CLOUDRAY_MEMORY", "2 GB", "memory", 2_000_000_000),
        ("CLOUDRAY_MEMORY", "1000", "memory", 1000),
        ("CLOUDRAY_RESOURCES", '{"licence": 2}', "resources", {"licence": 2.0}),
        ("CLOUDRAY_NAMESPACE", "evening", "namespace", "evening"),
        ("CLOUDRAY_LOGGING_LEVEL", "debug", "logging_level", 10),
        ("CLOUDRAY_TRACEBACK", "full", "traceback", "full"),
        ("CLOUDRAY_SCAN_S", "0.25", "scan_s", 0.25),
        ("RAY_DEDUP_LOGS", "0", "dedup_logs", False),
        ("CLOUDRAY_DEDUP_LOGS", "0", "dedup_logs", False),
        ("RAY_ENABLE_AUTO_CONNECT", "0", "enable_auto_connect", False),
    ],
)
def test_a_variable_is_read(variable: str, text: str, name: str, kept: object) -> None:
    resolved = put_together({variable: text})
    assert getattr(resolved.configuration, name) == kept
    assert resolved.sources[name] == f"environment {variable}"


def test_our_variable_counts_before_rays() -> None:
    resolved = put_together({"RAY_DEDUP_LOGS": "1", "CLOUDRAY_DEDUP_LOGS": "0"})
    assert resolved.configuration.dedup_logs is False


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("CLOUDRAY_PROGRESS", "maybe", "it must be one of 1, true, yes, on or 0, false, no, off"),
        ("CLOUDRAY_NUM_CPUS", "four", "it must be a number"),
        ("CLOUDRAY_NUM_CPUS", "-4", "The quantity of resource num_cpus cannot be negative"),
        ("CLOUDRAY_NUM_CPUS", "nan", "num_cpus must be a finite number"),
        ("CLOUDRAY_RESOURCES", "licence=2", 'it must be JSON such as {"licence": 2}'),
        ("CLOUDRAY_RESOURCES", "[1]", 'it must be JSON such as {"licence": 2}'),
        ("CLOUDRAY_RESOURCES", '{"licence": "2"}', "must be of type Dict[str, float]"),
        ("CLOUDRAY_MEMORY", "lots", "memory='lots' is no size"),
        ("CLOUDRAY_TRACEBACK", "long", "traceback='long' is neither 'short' nor 'full'"),
        ("RAY_DEDUP_LOGS", "maybe", "it must be one of 1, true"),
    ],
)
def test_what_a_variable_may_not_say_is_told_with_its_name(
    variable: str, text: str, message: str
) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        put_together({variable: text})
    assert f"The environment variable {variable}={text} is not allowed: " in str(info.value)
    assert message in str(info.value)


def test_a_variable_that_an_argument_overrides_must_be_right_all_the_same() -> None:
    with pytest.raises(ValueError, match="CLOUDRAY_NUM_CPUS=four"):
        put_together({"CLOUDRAY_NUM_CPUS": "four"}, num_cpus=1)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CLOUDRAY_PROGRES", "CLOUDRAY_PROGRESS"),
        ("CLOUDRAY_NUM_CPU", "CLOUDRAY_NUM_CPUS"),
        ("CLOUDRAY_ADRESS", "CLOUDRAY_ADDRESS"),
        ("CLOUDRAY_CONFIGS", "CLOUDRAY_CONFIG"),
    ],
)
def test_a_variable_that_looks_misspelt_causes_a_warning(variable: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=rf"{variable} is no setting .* Did you mean {meant}\?"):
        put_together({variable: "1"})


def test_variables_of_others_cause_no_warning() -> None:
    with warnings.catch_warnings(action="error"):
        put_together(dict.fromkeys(("CLOUDRAY_BENCHMARK_MARK", "NUM_CPU", "RAY_DEDUP_LOG"), "1"))


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "file:///shared"),
        ({"CLOUDRAY_ADDRESS": "s3://bucket"}, "file:///shared"),
    ],
)
def test_an_address_as_argument_counts_first(environ: dict[str, str], address: str) -> None:
    assert put_together(environ, address=address).configuration.address == address


@pytest.mark.parametrize("address", [None, "", "auto"])
def test_no_address_leaves_it_to_the_environment(address: str | None) -> None:
    resolved = put_together({"CLOUDRAY_ADDRESS": "s3://bucket"}, address=address)
    assert resolved.configuration.address == "s3://bucket"


@pytest.mark.parametrize("text", ["", "auto"])
def test_no_address_in_the_file_means_a_cluster_on_this_machine(write: Write, text: str) -> None:
    resolved = resolve({}, write(f"address = {text!r}"))
    assert resolved.configuration.address is None
    assert resolved.sources["address"] == "default"


def test_local_means_this_machine_whatever_the_environment_says() -> None:
    resolved = put_together({"CLOUDRAY_ADDRESS": "s3://bucket"}, address="local", num_cpus=2)
    assert resolved.configuration.address is None
    assert resolved.sources["address"] == "argument address"


def test_what_the_environment_offers_has_no_meaning_at_an_address(write: Write) -> None:
    filed = write("[embedded]\nobject_store_memory = '1 GB'\n")
    resolved = resolve({"address": "s3://bucket"}, filed | {"CLOUDRAY_NUM_CPUS": "4"})
    found = resolved.configuration
    assert (found.num_cpus, found.object_store_memory) == (None, None)
    assert resolved.sources["num_cpus"] == "default"


@pytest.mark.parametrize(
    "offer",
    [
        {"num_cpus": 1},
        {"num_gpus": 0},
        {"memory": "1 GB"},
        {"resources": {"licence": 1}},
        {"object_store_memory": 10**9},
        {"object_spilling_directory": "/large/disk"},
    ],
    ids=lambda offer: next(iter(offer)),
)
def test_who_joins_a_cluster_cannot_say_what_it_offers(offer: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        put_together(address="s3://bucket", **offer)
    assert str(info.value) == (
        f"When connecting to an existing cluster, {next(iter(offer))} must not be provided: the "
        "agents of s3://bucket say what they offer."
    )


def test_an_offer_that_an_address_contradicts_is_told_where_that_comes_from() -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        put_together({"CLOUDRAY_ADDRESS": "s3://bucket"}, num_cpus=1, memory=1)
    assert "num_cpus and memory must not be provided" in str(info.value)
    assert "The address comes from environment CLOUDRAY_ADDRESS; address='local'" in str(info.value)


CLUSTERS = """
address = "morning"
[clusters.morning]
address = "s3://bucket/morning"
[clusters.evening]
address = "s3://bucket/evening"
[clusters.local]
address = "file:///mine"
"""


def test_an_address_may_be_the_name_of_a_cluster(write: Write) -> None:
    filed = write(CLUSTERS)
    resolved = resolve({"address": "evening"}, filed)
    assert resolved.configuration.address == "s3://bucket/evening"
    assert resolved.sources["address"] == (
        f"argument address, [clusters.evening] of {filed['CLOUDRAY_CONFIG']}"
    )


def test_variable_and_file_may_name_a_cluster_too(write: Write) -> None:
    filed = write(CLUSTERS)
    assert resolve({}, filed).configuration.address == "s3://bucket/morning"
    named = resolve({}, filed | {"CLOUDRAY_ADDRESS": "evening"})
    assert named.configuration.address == "s3://bucket/evening"


def test_a_cluster_that_is_called_local_is_meant_by_that_name(write: Write) -> None:
    found = resolve({"address": "local"}, write(CLUSTERS)).configuration
    assert found.address == "file:///mine"


def test_a_name_that_no_cluster_has_is_told_with_those_there_are(write: Write) -> None:
    filed = write(CLUSTERS)
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        resolve({}, filed | {"CLOUDRAY_ADDRESS": "evenin"})
    assert "There is no cluster 'evenin' (from environment CLOUDRAY_ADDRESS)" in str(info.value)
    assert "has [clusters.evening], [clusters.local], [clusters.morning]" in str(info.value)
    assert "Did you mean 'evening'?" in str(info.value)


@pytest.mark.parametrize("address", ["/shared", "./shared", "~/shared", "host:6379"])
def test_what_looks_like_no_name_is_left_to_who_opens_stores(address: str) -> None:
    assert put_together(address=address).configuration.address == address


def test_variables_of_tasks_are_added_to_those_of_the_file(write: Write) -> None:
    filed = write("[runtime_env]\nenv_vars = { A = 'file', B = 'file' }\n")
    resolved = resolve({"runtime_env": {"env_vars": {"B": "mine"}}}, filed)
    assert resolved.configuration.env_vars == {"A": "file", "B": "mine"}
    assert resolved.sources["env_vars"] == (
        f"argument runtime_env and file {filed['CLOUDRAY_CONFIG']}"
    )


def test_code_that_tasks_need_is_asked_for_like_any_setting(write: Write, tmp_path: Path) -> None:
    for name in ("filed", "exported", "given"):
        (tmp_path / name).mkdir()
    environ = write(f"[runtime_env]\nworking_dir = '{tmp_path}/filed'\nexcludes = ['*.csv']\n")
    environ["CLOUDRAY_PY_MODULES"] = f'["{tmp_path}/exported"]'
    resolved = resolve({}, environ)
    assert resolved.configuration.working_dir == f"{tmp_path}/filed"
    assert resolved.configuration.py_modules == (f"{tmp_path}/exported",)
    assert resolved.configuration.excludes == ("*.csv",)
    env = {"working_dir": f"{tmp_path}/given", "py_modules": []}
    resolved = resolve({"runtime_env": env}, environ)
    assert resolved.configuration.working_dir == f"{tmp_path}/given"
    assert resolved.configuration.py_modules == ()
    assert resolved.configuration.excludes == ("*.csv",)
    assert resolved.sources["working_dir"] == "argument runtime_env"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CLOUDRAY_WORKING_DIR": "/no/where"}, "CLOUDRAY_WORKING_DIR=/no/where is not allowed"),
        ({"CLOUDRAY_PY_MODULES": "tea"}, "it must be JSON such as"),
        ({"CLOUDRAY_MAX_CODE_SIZE": "0"}, "max_code_size='0' leaves no room"),
        ({"CLOUDRAY_SEND_CODE": "maybe"}, "CLOUDRAY_SEND_CODE=maybe is not allowed"),
    ],
)
def test_code_that_cannot_be_is_refused_by_the_name_of_its_variable(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        put_together(environ)
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"CLOUDRAY_LEASE_S": "1"},
            "lease_s=1 (environment CLOUDRAY_LEASE_S) must be at least three times heartbeat_s=0.5",
        ),
        (
            {"CLOUDRAY_COMMIT_S": "0.5"},
            "commit_s=0.5 (environment CLOUDRAY_COMMIT_S) must be less than a quarter of lease_s=2",
        ),
        (
            {"CLOUDRAY_HEARTBEAT_S": "20", "CLOUDRAY_ADDRESS": "s3://bucket"},
            "lease_s=30 (default) must be at least three times heartbeat_s=20",
        ),
    ],
)
def test_times_that_contradict_each_other_are_refused(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        put_together(environ)
    assert message in str(info.value)


def test_times_that_agree_are_accepted() -> None:
    exported = {"CLOUDRAY_HEARTBEAT_S": "2", "CLOUDRAY_LEASE_S": "6", "CLOUDRAY_COMMIT_S": "1"}
    found = put_together(exported).configuration
    assert (found.heartbeat_s, found.lease_s, found.commit_s, found.scan_s) == (2, 6, 1, None)


def test_the_first_use_may_start_a_cluster_unless_somebody_says_no(write: Write) -> None:
    assert why_not_by_itself(put_together(), NO_FILE) is None
    exported = NO_FILE | {"RAY_ENABLE_AUTO_CONNECT": "off"}
    assert why_not_by_itself(resolve({}, exported), exported) == "RAY_ENABLE_AUTO_CONNECT=off"
    filed = write("enable_auto_connect = false")
    assert why_not_by_itself(resolve({}, filed), filed) == (
        f"enable_auto_connect is false in {filed['CLOUDRAY_CONFIG']}"
    )
