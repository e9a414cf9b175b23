"""Options of remote functions: what is accepted, what is refused in which words, what is kept."""

from __future__ import annotations

import math
from typing import Any, get_type_hints

import pytest

from cloudray.api import typing as typed
from cloudray.api.options import (
    TASK_OPTIONS,
    TaskOptions,
    markdown_table,
    merge,
    validate_task_options,
)


def keep(**options: Any) -> TaskOptions:
    """The options of a function decorated with these keywords."""
    validate_task_options(options, in_options=False)
    return merge(TaskOptions(), options)


def test_without_keywords_the_defaults_are_rays() -> None:
    options = keep()
    assert (options.num_cpus, options.num_gpus, options.num_returns) == (1, 0, 1)
    assert (options.max_retries, options.retry_exceptions) == (3, False)


@pytest.mark.parametrize(
    ("keyword", "value", "field", "kept"),
    [
        ("num_cpus", 0, "num_cpus", 0.0),
        ("num_cpus", 1.5, "num_cpus", 1.5),
        ("num_cpus", 0.0001, "num_cpus", 0.0001),
        ("num_gpus", 0.5, "num_gpus", 0.5),
        ("num_gpus", 2, "num_gpus", 2.0),
        ("memory", 1e9, "memory", 1_000_000_000),
        ("memory", 1.5, "memory", 2),
        ("resources", {"licence": 2}, "resources", {"licence": 2.0}),
        ("num_returns", 0, "num_returns", 0),
        ("max_calls", 5, "max_calls", 5),
        ("max_retries", -1, "max_retries", -1),
        ("retry_exceptions", True, "retry_exceptions", True),
        ("retry_exceptions", [ValueError, OSError], "retry_exceptions", (ValueError, OSError)),
        ("retry_exceptions", (), "retry_exceptions", ()),
        ("timeout_s", 0.5, "timeout_s", 0.5),
        ("timeout_s", 2, "timeout_s", 2.0),
        ("timeout_s", None, "timeout_s", None),
        ("name", "evening run", "name", "evening run"),
        ("runtime_env", {"env_vars": {"A": "1"}}, "env_vars", {"A": "1"}),
        ("runtime_env", {}, "env_vars", {}),
        ("scheduling_strategy", "SPREAD", "scheduling_strategy", "SPREAD"),
        ("accelerator_type", "A100", "accelerator_type", "A100"),
        ("label_selector", {"cloud.org/zone": "b"}, "label_selector", {"cloud.org/zone": "b"}),
        (
            "fallback_strategy",
            [{"label_selector": {"zone": "c"}}],
            "fallback_strategy",
            ({"zone": "c"},),
        ),
    ],
)
def test_an_option_is_kept(keyword: str, value: object, field: str, kept: object) -> None:
    found = getattr(keep(**{keyword: value}), field)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    "options",
    [
        {"enable_task_events": False},
        {"placement_group": "default"},
        {"placement_group_bundle_index": -1},
        {"placement_group_capture_child_tasks": True},
        {"_labels": {"team": "colours"}},
        {"_metadata": {"team": "colours"}},
        {"_generator_backpressure_num_objects": 2},
        {"_num_objects_per_yield": 2},
    ],
)
def test_an_option_without_effect_is_accepted(options: dict[str, Any]) -> None:
    assert keep(**options) == TaskOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retries": 1.5}, "'max_retries' must be (int, NoneType), but received type float"),
        ({"num_cpus": "2"}, "'num_cpus' must be (float, int, NoneType), but received type str"),
        ({"num_returns": 1.5}, "'num_returns' must be (int, str, NoneType), but received"),
        ({"resources": ["CPU"]}, "'resources' must be (dict, NoneType), but received type list"),
        ({"retry_exceptions": None}, "'retry_exceptions' must be (bool, list, tuple)"),
        ({"timeout_s": "1"}, "'timeout_s' must be (float, int, NoneType), but received type str"),
        ({"retry_exceptions": ValueError}, "'retry_exceptions' must be (bool, list, tuple)"),
        ({"name": 1}, "'name' must be (str, NoneType)"),
        ({"runtime_env": "auto"}, "'runtime_env' must be (dict, NoneType)"),
        ({"scheduling_strategy": 1}, "'scheduling_strategy' must be (str, NoneType)"),
        ({"enable_task_events": 1}, "'enable_task_events' must be bool, but received type int"),
        ({"placement_group_capture_child_tasks": 1}, "must be (bool, NoneType)"),
        ({"resources": {"a": "x"}}, "'resources' keyword must be of type Dict[str, float]"),
        ({"resources": {1: 1}}, "'resources' keyword must be of type Dict[str, float]"),
        ({"label_selector": {"a": 1}}, "'label_selector' keyword must be of type Dict[str, str]"),
        ({"fallback_strategy": ["zone"]}, "must be a dict with a 'label_selector', not 'zone'"),
        ({"fallback_strategy": [{}]}, "must be dict, but received type NoneType"),
        (
            {"runtime_env": {"env_vars": {"A": 1}}},
            "runtime_env['env_vars'] must be of type Dict[str, str], but the value 1 is of type",
        ),
        ({"runtime_env": {"env_vars": {1: "a"}}}, "but the key 1 is of type int"),
        ({"runtime_env": {"env_vars": ["A"]}}, "Dict[str, str], but received type list"),
    ],
)
def test_a_wrong_type_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as info:
        keep(**options)
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": -1}, "The quantity of resource num_cpus cannot be negative"),
        ({"num_cpus": math.nan}, "num_cpus must be a finite number, not nan"),
        ({"num_gpus": math.inf}, "num_gpus must be a finite number, not inf"),
        ({"num_gpus": 0.00001}, "num_gpus cannot go beyond 0.0001"),
        ({"num_gpus": 1.5}, "GPU resource quantities >1 must be whole numbers"),
        ({"memory": -1}, "The quantity of resource memory cannot be negative"),
        ({"resources": {"CPU": 1}}, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ({"resources": {"GPU": 1}}, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ({"resources": {"memory": 1}}, "must not contain the key 'memory'"),
        ({"resources": {"a": -1}}, "The quantity of resource a cannot be negative"),
        ({"num_returns": -1}, "'num_returns' only accepts None, a non-negative integer"),
        ({"num_returns": "several"}, "'num_returns' only accepts None, a non-negative integer"),
        ({"num_returns": "streaming"}, "num_returns='streaming' is not supported yet"),
        ({"num_returns": "dynamic"}, "num_returns='dynamic' is not supported yet"),
        ({"max_calls": -1}, "'max_calls' only accepts None, 0 or a positive integer."),
        ({"max_retries": -2}, "'max_retries' only accepts None, 0, -1 or a positive integer"),
        ({"retry_exceptions": [3]}, "must be either a boolean or a list of exceptions"),
        ({"retry_exceptions": [KeyboardInterrupt]}, "a list of exceptions"),
        ({"timeout_s": 0}, "'timeout_s' only accepts None or a positive number of seconds, not 0"),
        ({"timeout_s": -1.5}, "'timeout_s' only accepts None or a positive number of seconds"),
        ({"timeout_s": math.inf}, "'timeout_s' only accepts None or a positive number"),
        ({"timeout_s": math.nan}, "'timeout_s' only accepts None or a positive number"),
        ({"scheduling_strategy": "RANDOM"}, "Invalid scheduling_strategy value RANDOM"),
        ({"label_selector": {"a b": "c"}}, "Invalid label key name `a b`"),
        ({"fallback_strategy": [{"num_cpus": 1}]}, "Unsupported option found: 'num_cpus'"),
        ({"object_store_memory": 1}, "Setting 'object_store_memory' is not implemented for tasks"),
        (
            {"runtime_env": {"pip": ["x"]}},
            "runtime_env['pip'] is not supported. Install the packages where",
        ),
        ({"runtime_env": {"working_dir": "./nowhere"}}, "['working_dir']: there is no './nowhere'"),
        ({"runtime_env": {"pips": ["x"]}}, "runtime_env has no field 'pips'"),
        ({"runtime_env": {"env_vars": {"A=B": "1"}}}, "no process can have"),
        ({"runtime_env": {"env_vars": {"A": "1\0"}}}, "no process can have"),
        ({"runtime_env": {"env_vars": {"A": "\ud800"}}}, "which is no text"),
        ({"num_cpus": 2e15}, "num_cpus cannot go beyond 1e+15"),
        ({"memory": 10**400}, "memory cannot go beyond 1e+15"),
        ({"num_returns": 65_536}, "'num_returns' cannot go beyond 65535"),
        ({"max_retries": 2**31}, "'max_retries' cannot go beyond 2147483647."),
        ({"max_calls": 10**30}, "'max_calls' cannot go beyond 2147483647."),
        ({"name": "tea\ud800"}, "which is no text: surrogates not allowed at position 3"),
        ({"accelerator_type": "\udfff"}, "which is no text"),
        ({"resources": {"\ud800": 1}}, "which is no text"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        keep(**options)
    assert message in str(info.value)


def test_an_unknown_option_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match="Invalid option keyword num_cpu for remote functions"
    ) as info:
        keep(num_cpu=1)
    assert all(repr(name) in str(info.value) for name in TASK_OPTIONS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_cpu", "num_cpus"), ("cpus", "num_cpus"), ("max_retry", "max_retries")],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"Did you mean '{meant}'\?$"):
        keep(**{name: 1})


def test_nothing_is_guessed_about_an_option_that_is_like_none() -> None:
    with pytest.raises(ValueError, match=r"'_num_objects_per_yield'\]\.$"):
        keep(colour=1)


@pytest.mark.parametrize("name", ["lifetime", "max_restarts", "max_concurrency"])
def test_an_option_of_actors_is_unknown_to_functions(name: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid option keyword {name}"):
        keep(**{name: 1})


@pytest.mark.parametrize("value", [3, 0, None])
def test_max_calls_is_refused_in_options(value: int | None) -> None:
    with pytest.raises(
        ValueError, match=r"Setting 'max_calls' is not supported in '\.options\(\)'"
    ):
        validate_task_options({"max_calls": value}, in_options=True)


def test_every_other_option_is_accepted_in_options() -> None:
    validate_task_options({"num_cpus": 2, "name": "a", "num_returns": 2}, in_options=True)


def test_changes_replace_and_the_rest_stays() -> None:
    base = keep(num_cpus=2, max_retries=0, runtime_env={"env_vars": {"A": "1"}})
    merged = merge(base, {"num_cpus": 4, "runtime_env": {"env_vars": {"B": "2"}}})
    assert (merged.num_cpus, merged.max_retries, merged.env_vars) == (4, 0, {"B": "2"})
    assert (base.num_cpus, base.env_vars) == (2, {"A": "1"})


@pytest.mark.parametrize(
    "option",
    [option for option in TASK_OPTIONS.values() if type(None) in option.types],
    ids=lambda option: option.name,
)
def test_none_puts_the_default_back(option: Any) -> None:
    base = TaskOptions(
        num_cpus=7, num_gpus=7, memory=7, resources={"a": 7}, num_returns=7, max_calls=7,
        max_retries=7, name="7", env_vars={"A": "7"}, scheduling_strategy="SPREAD",
        accelerator_type="7", label_selector={"a": "7"}, fallback_strategy=({"a": "7"},),
    )  # fmt: skip
    merged = merge(base, {option.name: None})
    if option.field:
        assert getattr(merged, option.field) == getattr(TaskOptions(), option.field)
    else:
        assert merged is base


def test_what_is_kept_does_not_change_with_the_users_dictionaries() -> None:
    resources, env_vars = {"licence": 1.0}, {"A": "1"}
    options = keep(resources=resources, runtime_env={"env_vars": env_vars})
    resources["licence"] = 9
    env_vars["A"] = "9"
    assert (options.resources, options.env_vars) == ({"licence": 1.0}, {"A": "1"})


def test_options_cannot_be_changed_in_place() -> None:
    options: Any = keep()
    with pytest.raises(AttributeError):
        options.num_cpus = 2


def test_the_defaults_of_table_and_struct_agree() -> None:
    for option in TASK_OPTIONS.values():
        if option.field:
            assert getattr(TaskOptions(), option.field) == option.default


def test_every_field_is_set_by_one_option() -> None:
    fields = [option.field for option in TASK_OPTIONS.values() if option.field]
    fields += [option.also[0] for option in TASK_OPTIONS.values() if option.also is not None]
    assert sorted(fields) == sorted(TaskOptions.__struct_fields__)


def test_type_checkers_know_the_same_options() -> None:
    names = {name for name, option in TASK_OPTIONS.items() if name != "object_store_memory"}
    in_options = {name for name in names if TASK_OPTIONS[name].in_options}
    assert set(get_type_hints(typed.RemoteArguments)) | {"num_returns"} == names
    assert set(get_type_hints(typed.OptionArguments)) | {"num_returns"} == in_options


def test_the_documentation_has_a_row_for_every_option() -> None:
    rows = markdown_table().splitlines()
    assert rows[0] == "| option | type | default | meaning |"
    named = [row.split("`")[1] for row in rows[2:]]
    assert named == [name for name in TASK_OPTIONS if name != "object_store_memory"]
    assert all(row.count("|") == rows[0].count("|") for row in rows)
