"""The table of settings: what is accepted, what is refused, and that everything agrees with it."""

from __future__ import annotations

import inspect
import logging
import math
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from cloudray import timing
from cloudray.api import session
from cloudray.api.settings import (
    BY_ARGUMENT,
    BY_VARIABLE,
    NEW_CLUSTER,
    SETTINGS,
    Setting,
    markdown_table,
)
from cloudray.configuration import Configuration

ALL = pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)


def test_every_field_of_the_configuration_is_set_by_the_setting_of_its_name() -> None:
    assert sorted(SETTINGS) == sorted(Configuration.__struct_fields__)
    assert all(name == setting.name for name, setting in SETTINGS.items())


def test_every_time_of_the_protocol_is_a_setting() -> None:
    times = [name for name, setting in SETTINGS.items() if setting.applies == NEW_CLUSTER]
    assert times == list(timing.Timing.__struct_fields__)


def test_init_takes_what_the_table_says_and_the_reinit_flag() -> None:
    parameters = inspect.signature(session.init).parameters.values()
    named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert named == {*BY_ARGUMENT, "ignore_reinit_error"}


def test_every_argument_of_init_may_be_left_to_environment_and_file() -> None:
    parameters = inspect.signature(session.init).parameters
    assert {parameters[name].default for name in BY_ARGUMENT} == {None}


@pytest.mark.parametrize("setting", BY_ARGUMENT.values(), ids=lambda setting: setting.name)
def test_type_checkers_know_the_types_of_the_table(setting: Setting) -> None:
    hint = get_type_hints(session.init)[setting.argument]
    # To type checkers a float may be an int.
    known = {type(None), *setting.kind.types} - ({int} if float in setting.kind.types else set())
    assert {_class_of(member) for member in get_args(hint)} == known


def _class_of(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    return get_origin(hint) or hint


def test_what_init_accepts_without_effect_is_no_setting() -> None:
    assert not BY_ARGUMENT.keys() & session.AcceptedArguments.__annotations__.keys()


@ALL
def test_a_default_would_be_accepted_too(setting: Setting) -> None:
    if setting.default not in (None, ""):
        kept = setting.default
        assert setting.kind.fits(kept)
        assert (setting.check(setting.name, kept) if setting.check else kept) == kept


def test_a_variable_belongs_to_one_setting() -> None:
    variables = [name for setting in SETTINGS.values() for name in setting.variables]
    assert len(variables) == len(set(variables)) == len(BY_VARIABLE)


def test_every_setting_but_the_tasks_variables_has_a_variable_of_its_name() -> None:
    without = [
        name
        for name, setting in SETTINGS.items()
        if f"CLOUDRAY_{name.upper()}" not in setting.variables
    ]
    assert without == ["env_vars"]


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("num_cpus", 0, 0.0),
        ("num_cpus", 1.5, 1.5),
        ("num_cpus", np.int64(2), 2.0),
        ("memory", np.int32(1000), 1000),
        ("memory", 0, 0),
        ("memory", 1e9, 1_000_000_000),
        ("memory", "2 GB", 2_000_000_000),
        ("object_store_memory", "512MiB", 512 << 20),
        ("object_store_memory", "75000000", 75_000_000),
        ("object_spilling_directory", "/large/disk", "/large/disk"),
        ("object_spilling_directory", PurePosixPath("/large/disk"), "/large/disk"),
        ("object_spilling_directory", "~/spilled", str(Path.home() / "spilled")),
        ("object_spilling_directory", "spilled", str(Path.cwd() / "spilled")),
        ("resources", {"licence": 2}, {"licence": 2.0}),
        ("resources", MappingProxyType({"licence": 2}), {"licence": 2.0}),
        ("logging_level", "warning", logging.WARNING),
        ("logging_level", logging.DEBUG, logging.DEBUG),
        ("logging_level", "15", 15),
        ("traceback", "full", "full"),
        ("progress", True, True),
        ("namespace", "evening", "evening"),
        ("heartbeat_s", 1, 1.0),
        ("env_vars", {"env_vars": {"A": "1"}}, {"A": "1"}),
        ("env_vars", {}, {}),
    ],
)
def test_a_value_is_kept(name: str, value: object, kept: object) -> None:
    found = SETTINGS[name].keep(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_cpus", "2", "'num_cpus' must be (float, int, NoneType), but received type str"),
        ("num_cpus", True, "'num_cpus' must be (float, int, NoneType), but received type bool"),
        ("memory", True, "'memory' must be (float, int, str, NoneType), but received type bool"),
        ("memory", [1], "'memory' must be (float, int, str, NoneType), but received type list"),
        ("resources", ["a"], "'resources' must be (Mapping, NoneType), but received type list"),
        ("resources", {"a": "x"}, "'resources' keyword must be of type Dict[str, float]"),
        ("address", 1, "'address' must be (str, NoneType), but received type int"),
        ("log_to_driver", 1, "'log_to_driver' must be (bool, NoneType), but received type int"),
        ("progress", "no", "'progress' must be (bool, NoneType), but received type str"),
        ("logging_level", 1.5, "'logging_level' must be (int, str, NoneType), but received type"),
        ("env_vars", "auto", "'runtime_env' must be (Mapping, NoneType), but received type str"),
        ("env_vars", {"env_vars": {"A": 1}}, "the value 1 is of type int"),
    ],
)
def test_a_wrong_type_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError) as info:
        SETTINGS[name].keep(value)
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_cpus", -1, "The quantity of resource num_cpus cannot be negative"),
        ("num_cpus", math.nan, "num_cpus must be a finite number, not nan"),
        ("num_cpus", math.inf, "num_cpus must be a finite number, not inf"),
        ("num_gpus", 1.5, "GPU resource quantities >1 must be whole numbers"),
        ("memory", -1, "The quantity of resource memory cannot be negative"),
        ("memory", "2 apples", "memory='2 apples' is no size"),
        ("memory", "-2 GB", "memory='-2 GB' is no size"),
        ("object_store_memory", 0, "object_store_memory=0 leaves no room for any value"),
        ("object_spilling_directory", "", "object_spilling_directory is empty"),
        ("resources", {"CPU": 1}, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ("resources", {"memory": 1}, "must not contain the key 'memory'"),
        ("resources", {"a": -1}, "The quantity of resource a cannot be negative"),
        ("logging_level", "LOUD", "logging_level='LOUD' is no level: it is one of CRITICAL"),
        ("traceback", "long", "traceback='long' is neither 'short' nor 'full'"),
        ("namespace", "", '"" is not a valid namespace. Pass None'),
        ("lease_s", 0, "lease_s=0 is no time: it is a number of seconds above 0"),
        ("lease_s", math.nan, "lease_s=nan is no time"),
        ("lease_s", math.inf, "lease_s=inf is no time"),
        (
            "env_vars",
            {"pip": ["x"]},
            "runtime_env['pip'] is not supported. Install the packages where",
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        SETTINGS[name].keep(value)
    assert message in str(info.value)


def test_the_documentation_has_a_row_for_every_setting() -> None:
    named = [row.split("`")[1] for row in markdown_table().splitlines()[2:]]
    assert named == list(SETTINGS)


@ALL
def test_a_setting_is_documented_by_sentences(setting: Setting) -> None:
    assert setting.doc[0].isupper()
    assert setting.doc.endswith(".")
    assert "|" not in setting.doc
