"""The options of remote functions: one table, from which checks, messages and docs are made.

    @cloudray.remote(num_cpus=2, max_retries=0)
    f.options(name="evening run").remote()

Names, defaults and errors are Ray's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cloudray import context
from cloudray.api import checks
from cloudray.api.runtime_env import env_vars_of, wishes_of
from cloudray.api.wording import did_you_mean, wrong_type
from cloudray.code.wishes import Wishes

DEFAULT_NUM_CPUS = 1.0
DEFAULT_MAX_RETRIES = 3


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a remote function, checked and with their defaults filled in.

    >>> TaskOptions().max_retries
    3
    """

    #: CPUs that a call holds while it runs
    num_cpus: float = DEFAULT_NUM_CPUS
    #: GPUs; a fraction shares one GPU, more than one are whole
    num_gpus: float = 0.0
    #: bytes of memory; 0 reserves none
    memory: int = 0
    #: quantity of each custom resource
    resources: dict[str, float] = {}
    #: how many references a call returns; with 0 it returns None
    num_returns: int = 1
    #: calls after which a worker process is replaced; 0 for never, None for 1 with GPUs and 0
    #: without
    max_calls: int | None = None
    #: attempts after the first that failures may cost; -1 for no limit
    max_retries: int = DEFAULT_MAX_RETRIES
    #: which exceptions of the function are retried as well: all, none, or those of these classes
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    #: seconds that an attempt may run; None for no limit
    timeout_s: float | None = None
    #: what to call the task in messages; empty for the function's name
    name: str = ""
    #: environment variables of the worker process
    env_vars: dict[str, str] = {}
    #: code that the worker process can import
    wishes: Wishes = Wishes()
    #: `DEFAULT` or `SPREAD`
    scheduling_strategy: str = "DEFAULT"
    #: the GPU model, e.g. "A100"; empty for any
    accelerator_type: str = ""
    #: labels that the machine must have
    label_selector: dict[str, str] = {}
    #: label selectors to try when no machine has those labels, in this order
    fallback_strategy: tuple[dict[str, str], ...] = ()


class Option(msgspec.Struct, frozen=True):
    """One keyword of `remote` and `.options()`."""

    name: str
    #: the value must be an instance of one of these
    types: tuple[type, ...]
    #: what None stands for, and the value when the keyword is not given
    default: Any
    #: one sentence for the documentation
    doc: str
    #: takes the keyword's name and a value of these types; returns what `TaskOptions` keeps, or
    #: raises ValueError or TypeError. None keeps the value as it is
    check: Callable[[str, Any], Any] | None = None
    #: the field of `TaskOptions`; empty when the option is accepted and does nothing
    field: str = ""
    #: whether `.options()` takes it too
    in_options: bool = True
    #: another field of `TaskOptions` that the value says something about, and what of it
    also: tuple[str, Callable[[Any], Any]] | None = None

    def keep(self, value: Any) -> Any:
        """What to keep for a value, after checking it."""
        if not isinstance(value, self.types):
            raise wrong_type(self.name, self.types, value)
        if value is None:
            return self.default
        return value if self.check is None else self.check(self.name, value)

    def keep_also(self, value: Any) -> dict[str, Any]:
        """What to keep in another field, after `keep`."""
        if self.also is None:
            return {}
        field, take = self.also
        return {field: take({} if value is None else value)}


_NONE = type(None)
_NUMBER = (float, int, _NONE)


def _table(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


#: Every keyword that `remote` takes for a function, by name, in the order of the documentation.
TASK_OPTIONS: Mapping[str, Option] = _table(
    Option(
        "num_cpus",
        _NUMBER,
        DEFAULT_NUM_CPUS,
        "CPUs that a call holds while it runs; fractions down to 0.0001.",
        checks.quantity,
        "num_cpus",
    ),
    Option(
        "num_gpus",
        _NUMBER,
        0.0,
        "GPUs that a call holds; a fraction shares one, more than one are whole.",
        checks.gpus,
        "num_gpus",
    ),
    Option("memory", _NUMBER, 0, "Bytes of memory that a call holds.", checks.memory, "memory"),
    Option(
        "resources",
        (dict, _NONE),
        {},
        "Quantities of custom resources, by name.",
        checks.resources,
        "resources",
    ),
    Option(
        "num_returns",
        (int, str, _NONE),
        1,
        "How many references a call returns; with 0 it returns None.",
        checks.num_returns,
        "num_returns",
    ),
    Option(
        "max_calls",
        (int, _NONE),
        None,
        "Calls after which a worker process is replaced, 0 for never. "
        "Default: 1 with GPUs, 0 without.",
        checks.max_calls,
        "max_calls",
        in_options=False,
    ),
    Option(
        "max_retries",
        (int, _NONE),
        DEFAULT_MAX_RETRIES,
        "How often a call is run again after its machine or process died; -1 for no limit.",
        checks.max_retries,
        "max_retries",
    ),
    Option(
        "retry_exceptions",
        (bool, list, tuple),
        default=False,
        doc="Whether exceptions of the function are retried too: all, or those of these classes.",
        check=checks.retry_exceptions,
        field="retry_exceptions",
    ),
    Option(
        "timeout_s",
        _NUMBER,
        None,
        "Seconds that a call may run, from when its worker process begins with it, time spent in "
        "`get` included; then it is interrupted (`KeyboardInterrupt`), killed if it has not ended "
        "3 s later, and fails with `TaskTimeoutError`. Retried only if `retry_exceptions` covers "
        "that. None for no limit.",
        checks.seconds,
        "timeout_s",
    ),
    Option(
        "name",
        (str, _NONE),
        "",
        "What to call the task in messages and logs; by default the function's name.",
        checks.text,
        field="name",
    ),
    Option(
        "runtime_env",
        (dict, _NONE),
        {},
        "What the worker process needs: `env_vars`; `working_dir` (a folder, a .zip file or a "
        "URL), `py_modules` (packages, modules, wheels, .zip files, URLs) and `excludes` (patterns "
        "as in .gitignore).",
        lambda _name, value: env_vars_of(value),
        "env_vars",
        also=("wishes", wishes_of),
    ),
    Option(
        "scheduling_strategy",
        (str, _NONE),
        "DEFAULT",
        '`"DEFAULT"` or `"SPREAD"`; both spread tasks over the agents that have room.',
        checks.strategy,
        "scheduling_strategy",
    ),
    Option(
        "accelerator_type",
        (str, _NONE),
        "",
        'The GPU model, e.g. `"A100"`.',
        checks.text,
        field="accelerator_type",
    ),
    Option(
        "label_selector",
        (dict, _NONE),
        {},
        "Labels that the machine must have. Refused so far: agents have no labels yet.",
        checks.labels,
        "label_selector",
    ),
    Option(
        "fallback_strategy",
        (list, _NONE),
        (),
        "Label selectors to try in turn. Refused so far: agents have no labels yet.",
        checks.fallbacks,
        "fallback_strategy",
    ),
    Option("enable_task_events", (bool,), default=True, doc="Accepted without effect."),
    Option("placement_group", (str, _NONE), None, "Accepted without effect."),
    Option("placement_group_bundle_index", (int, _NONE), None, "Accepted without effect."),
    Option("placement_group_capture_child_tasks", (bool, _NONE), None, "Accepted without effect."),
    Option(
        "object_store_memory", _NUMBER, None, "Refused for tasks, as in Ray.", checks.not_for_tasks
    ),
    Option("_labels", (dict, _NONE), None, "Accepted without effect."),
    Option("_metadata", (dict, _NONE), None, "Accepted without effect."),
    Option("_generator_backpressure_num_objects", (int, _NONE), None, "Accepted without effect."),
    Option("_num_objects_per_yield", (int, _NONE), None, "Accepted without effect."),
)


def validate_task_options(options: Mapping[str, Any], in_options: bool) -> None:  # noqa: FBT001
    """Check the keywords of `remote`, or with `in_options` those of `.options()`.

    Raises ValueError for an unknown keyword or a value that is not allowed, and TypeError for a
    value of a wrong type.

    >>> validate_task_options({"max_retries": 1.5}, in_options=False)
    Traceback (most recent call last):
    TypeError: The type of keyword 'max_retries' must be (int, NoneType), but received type float
    """
    for name, value in options.items():
        option = TASK_OPTIONS.get(name)
        if option is None:
            raise ValueError(
                f"Invalid option keyword {name} for remote functions. "
                f"Valid ones are {list(TASK_OPTIONS)}.{did_you_mean(name, TASK_OPTIONS)}"
            )
        option.keep(value)
        option.keep_also(value)
        if in_options and not option.in_options:
            raise ValueError(f"Setting '{name}' is not supported in '.options()'.")


def merge(base: TaskOptions, changes: Mapping[str, Any]) -> TaskOptions:
    """The options with validated keywords put in; None puts the default back.

    >>> merge(TaskOptions(num_cpus=2), {"max_retries": -1}).num_cpus
    2
    """
    kept = {
        option.field: option.keep(value)
        for option, value in ((TASK_OPTIONS[name], value) for name, value in changes.items())
        if option.field
    }
    for name, value in changes.items():
        kept |= TASK_OPTIONS[name].keep_also(value)
    return msgspec.structs.replace(base, **kept) if kept else base


def with_inherited(options: TaskOptions) -> TaskOptions:
    """The options with the runtime environment of the job, or of the submitting task.

    That of the options themselves takes precedence. What code a task has, its executor knows.
    """
    env_vars = context.inherited()
    if env_vars:
        options = msgspec.structs.replace(options, env_vars={**env_vars, **options.env_vars})
    wishes = context.job_wishes()
    if wishes:
        options = msgspec.structs.replace(options, wishes=options.wishes.over(wishes))
    return options


def markdown_table() -> str:
    """The options of remote functions as a table for the documentation."""
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in TASK_OPTIONS.values():
        if option.check is checks.not_for_tasks:
            continue
        types = ", ".join("None" if known is _NONE else known.__name__ for known in option.types)
        doc = option.doc if option.in_options else f"{option.doc} Not in `.options()`."
        rows.append(f"| `{option.name}` | {types} | `{option.default!r}` | {doc} |")
    return "\n".join(rows) + "\n"


def said(options: TaskOptions) -> list[str]:
    """The options that are not as they would be without being given, as they are written.

    >>> said(TaskOptions(num_cpus=2.0, retry_exceptions=(OSError,)))
    ['num_cpus=2', 'retry_exceptions=[OSError]']
    """
    usual = TaskOptions()
    chosen = {
        name: value
        for name in TaskOptions.__struct_fields__
        if (value := getattr(options, name)) != getattr(usual, name)
    }
    wishes = chosen.pop("wishes", None)
    if wishes is not None:
        chosen["runtime_env"] = wishes.as_fields()
    return [f"{name}={_written(value)}" for name, value in chosen.items()]


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, tuple) and all(isinstance(one, type) for one in value):
        return f"[{', '.join(one.__name__ for one in value)}]"
    return repr(value)
