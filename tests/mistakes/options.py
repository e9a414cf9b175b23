"""Mistakes in the options of remote functions."""

from __future__ import annotations

from tests.mistakes.row import Mistake

_F = "@ray.remote\ndef f(x=0):\n    return x\n"


def _refused(what: str, options: str, error: str, message: str, instead: str) -> Mistake:
    return Mistake(
        what=what,
        given=_F,
        code=f"f.options({options})",
        error=error,
        message=message,
        instead=instead,
    )


def _wrong_type(option: str, value: str, types: str, received: str) -> Mistake:
    return _refused(
        f"`{option}` of a wrong type",
        f"{option}={value}",
        "TypeError",
        f"The type of keyword '{option}' must be {types}, but received type {received}",
        "Give a value of one of these types.",
    )


TITLE = "Options of remote functions"

ROWS: tuple[Mistake, ...] = (
    Mistake(
        what="Parentheses without options",
        code="@ray.remote()\ndef f():\n    return 1",
        error="TypeError",
        message=(
            "The @cloudray.remote decorator must be applied either with no arguments and no "
            "parentheses, for example '@cloudray.remote', or it must be applied using some of the "
            "options as keywords, for example '@cloudray.remote(num_returns=2, "
            'resources={"CustomResource": 1})\'. It received nothing: leave the parentheses out.'
        ),
        instead="Write `@ray.remote` without parentheses.",
    ),
    Mistake(
        what="Options by position",
        code="@ray.remote(2)\ndef f():\n    return 1",
        error="TypeError",
        message=(
            "The @cloudray.remote decorator must be applied either with no arguments and no "
            "parentheses, …, for example '@cloudray.remote(num_returns=2, "
            'resources={"CustomResource": 1})\'. It received 2.'
        ),
        instead="Name the option: `@ray.remote(num_cpus=2)`.",
    ),
    Mistake(
        what="A function and options at once",
        code="ray.remote(len, num_cpus=2)",
        error="TypeError",
        message="The @cloudray.remote decorator must be applied either with no arguments …. For a "
        "function and options write cloudray.remote(num_returns=2)(function).",
        instead="`ray.remote(num_cpus=2)(len)`, or `ray.remote(len).options(num_cpus=2)`.",
    ),
    _refused(
        "Options of a call by position",
        "2",
        "TypeError",
        "options() takes keywords only, but received 2. Write for example f.options(num_cpus=2).",
        "Name the option.",
    ),
    _refused(
        "An option that does not exist",
        "num_cpu=2",
        "ValueError",
        "Invalid option keyword num_cpu for remote functions. Valid ones are ['num_cpus', …]. Did "
        "you mean 'num_cpus'?",
        "[options.md](options.md) lists them.",
    ),
    _refused(
        "An option of actors",
        'lifetime="detached"',
        "ValueError",
        "Invalid option keyword lifetime for remote functions. Valid ones are […].…",
        "Leave it out: a function has no lifetime.",
    ),
    _refused(
        "An option that belongs to the function in `.options()`",
        "max_calls=2",
        "ValueError",
        "Setting 'max_calls' is not supported in '.options()'.",
        "Give it where the function is defined: `@ray.remote(max_calls=2)`.",
    ),
    _wrong_type("num_cpus", '"2"', "(float, int, NoneType)", "str"),
    _wrong_type("memory", '"2 GB"', "(float, int, NoneType)", "str"),
    _wrong_type("resources", '["tpu"]', "(dict, NoneType)", "list"),
    _wrong_type("num_returns", "1.5", "(int, str, NoneType)", "float"),
    _wrong_type("max_retries", '"3"', "(int, NoneType)", "str"),
    _wrong_type("retry_exceptions", "ValueError", "(bool, list, tuple)", "type"),
    _wrong_type("timeout_s", '"1 min"', "(float, int, NoneType)", "str"),
    _wrong_type("name", "3", "(str, NoneType)", "int"),
    _wrong_type("runtime_env", '"env.yaml"', "(dict, NoneType)", "str"),
    _wrong_type("scheduling_strategy", "3", "(str, NoneType)", "int"),
    _wrong_type("accelerator_type", "100", "(str, NoneType)", "int"),
    _wrong_type("label_selector", '"gpu"', "(dict, NoneType)", "str"),
    _wrong_type("fallback_strategy", '"gpu"', "(list, NoneType)", "str"),
    _wrong_type("enable_task_events", "None", "bool", "NoneType"),
    _refused(
        "A negative quantity",
        "num_cpus=-1",
        "ValueError",
        "The quantity of resource num_cpus cannot be negative",
        "0 asks for none.",
    ),
    _refused(
        "A quantity that is no number",
        'num_gpus=float("nan")',
        "ValueError",
        "The quantity of resource num_gpus must be a finite number, not nan",
        "Give a number.",
    ),
    _refused(
        "A quantity that is too small",
        "num_cpus=0.00001",
        "ValueError",
        "The precision of the fractional quantity of resource num_cpus cannot go beyond 0.0001",
        "0 asks for none.",
    ),
    _refused(
        "A quantity that no machine has",
        "memory=1e16",
        "ValueError",
        "The quantity of resource memory cannot go beyond 1e+15",
        "`memory` counts bytes.",
    ),
    _refused(
        "Parts of several GPUs",
        "num_gpus=1.5",
        "ValueError",
        "GPU resource quantities >1 must be whole numbers. The specified quantity 1.5 is invalid.",
        "Ask for 2, or for a part of one.",
    ),
    _refused(
        "A standard resource as a custom one",
        'resources={"CPU": 2}',
        "ValueError",
        "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' "
        "keyword",
        "`num_cpus=2`.",
    ),
    _refused(
        "Memory as a custom resource",
        'resources={"memory": 2}',
        "ValueError",
        "The resources dictionary must not contain the key 'memory' or 'object_store_memory'; use "
        "the 'memory' keyword",
        "`memory=2`, in bytes.",
    ),
    _refused(
        "A custom resource whose quantity is no number",
        'resources={"tpu": "two"}',
        "TypeError",
        "The 'resources' keyword must be of type Dict[str, float], but it has 'tpu': 'two'",
        'A dictionary of names and numbers: `resources={"tpu": 2}`.',
    ),
    _refused(
        "A negative number of results",
        "num_returns=-1",
        "ValueError",
        "The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' (for "
        "generators), or 'dynamic', not -1",
        "0 for a function whose result nobody needs.",
    ),
    _refused(
        "Too many results",
        "num_returns=100_000",
        "ValueError",
        "The keyword 'num_returns' cannot go beyond 65535: return a list, or call the function "
        "more often",
        "Return a list: it is one value.",
    ),
    _refused(
        "Results that come one by one",
        'num_returns="streaming"',
        "ValueError",
        "num_returns='streaming' is not supported yet: let the function return a list, or call it "
        "once for each item",
        "Return a list.",
    ),
    _refused(
        "A negative number of retries",
        "max_retries=-2",
        "ValueError",
        "The keyword 'max_retries' only accepts None, 0, -1 or a positive integer, where -1 "
        "represents infinity.",
        "-1 for no limit.",
    ),
    Mistake(
        what="A negative number of calls",
        code="ray.remote(max_calls=-1)",
        error="ValueError",
        message="The keyword 'max_calls' only accepts None, 0 or a positive integer.",
        instead="0 for no limit.",
    ),
    _refused(
        "A retry for something that is no exception",
        'retry_exceptions=["ValueError"]',
        "ValueError",
        "retry_exceptions must be either a boolean or a list of exceptions, but it has "
        "'ValueError'",
        "The class itself: `retry_exceptions=[ValueError]`.",
    ),
    _refused(
        "A time limit that is over at once",
        "timeout_s=0",
        "ValueError",
        "The keyword 'timeout_s' only accepts None or a positive number of seconds, not 0",
        "None for no limit.",
    ),
    _refused(
        "A name that cannot be written down",
        'name="\\ud800"',
        "ValueError",
        "The keyword 'name' has '\\ud800', which is no text: surrogates not allowed at position 0",
        "Use whole characters.",
    ),
    _refused(
        "A runtime environment that is not supported",
        'runtime_env={"pip": ["polars"]}',
        "ValueError",
        "runtime_env['pip'] is not supported. Install the packages where the workers run…",
        "Install packages where the agents run, or send wheels by `py_modules`.",
    ),
    _refused(
        "A field of a runtime environment that does not exist",
        'runtime_env={"env_var": {}}',
        "ValueError",
        "runtime_env has no field 'env_var'. Supported fields are ['env_vars',…",
        "`env_vars`.",
    ),
    _refused(
        "A working directory that is not there",
        'runtime_env={"working_dir": "./nowhere"}',
        "ValueError",
        "runtime_env['working_dir']: there is no './nowhere' (looked for…",
        "A folder or .zip file of this machine, or a URL.",
    ),
    _refused(
        "Modules that are no list",
        'runtime_env={"py_modules": "tea"}',
        "TypeError",
        "runtime_env['py_modules'] must be of type List[str], but received type str",
        '`["tea"]`.',
    ),
    _refused(
        "Environment variables that are no dictionary",
        'runtime_env={"env_vars": ["A=1"]}',
        "TypeError",
        "runtime_env['env_vars'] must be of type Dict[str, str], but received type list",
        '`{"A": "1"}`.',
    ),
    _refused(
        "An environment variable that is no text",
        'runtime_env={"env_vars": {"THREADS": 4}}',
        "TypeError",
        "runtime_env['env_vars'] must be of type Dict[str, str], but the value 4 is of type int",
        '`{"THREADS": "4"}`.',
    ),
    _refused(
        "An environment variable whose name cannot be one",
        'runtime_env={"env_vars": {"A=B": "1"}}',
        "ValueError",
        "runtime_env['env_vars'] has 'A=B', which no process can have as an environment variable",
        "A name has no `=`.",
    ),
    _refused(
        "A scheduling strategy that does not exist",
        'scheduling_strategy="FAST"',
        "ValueError",
        "Invalid scheduling_strategy value FAST. Valid values are 'DEFAULT' and 'SPREAD'",
        '`"SPREAD"`, or leave it out.',
    ),
    _refused(
        "Labels",
        'label_selector={"zone": "a"}',
        "ValueError",
        "'label_selector' and 'fallback_strategy' are not supported yet: agents have no labels in "
        "this version. Give the machines a custom resource instead, and ask for it with "
        "resources={...}.",
        "A custom resource.",
    ),
    _refused(
        "A label that is no text",
        'label_selector={"zone": 1}',
        "TypeError",
        "The 'label_selector' keyword must be of type Dict[str, str], but it has 'zone': 1",
        "Labels are texts.",
    ),
    _refused(
        "Room for objects as an option of a task",
        "object_store_memory=1_000_000",
        "ValueError",
        "Setting 'object_store_memory' is not implemented for tasks",
        "`init(object_store_memory=...)`.",
    ),
)
