"""What a worker process needs before it runs a task: the `runtime_env` option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudray.api import checks

#: Fields of a runtime environment that do something.
SUPPORTED_FIELDS = ("env_vars",)
#: Fields that Ray has beside those.
OTHER_FIELDS = (
    "conda",
    "config",
    "container",
    "excludes",
    "image_uri",
    "java_jars",
    "mpi",
    "nsight",
    "pip",
    "py_executable",
    "py_modules",
    "rocprof_sys",
    "uv",
    "worker_process_setup_hook",
    "working_dir",
)


def env_vars_of(value: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a runtime environment.

    Raises ValueError for a field that is not supported yet or unknown, and TypeError for
    `env_vars` that are not strings.

    >>> env_vars_of({"env_vars": {"LEVEL": "3"}})
    {'LEVEL': '3'}
    """
    for field in value:
        if field in OTHER_FIELDS:
            raise ValueError(
                f"runtime_env[{field!r}] is not supported yet. "
                f"Supported fields are {list(SUPPORTED_FIELDS)}."
            )
        if field not in SUPPORTED_FIELDS:
            raise ValueError(
                f"runtime_env has no field {field!r}. "
                f"Supported fields are {list(SUPPORTED_FIELDS)}."
            )
    variables = value.get("env_vars")
    if variables is None:
        return {}
    if not isinstance(variables, dict):
        raise TypeError(
            "runtime_env['env_vars'] must be of type Dict[str, str], but received type "
            f"{type(variables).__name__}"
        )
    for key, text in variables.items():
        for part, found in (("key", key), ("value", text)):
            if not isinstance(found, str):
                raise TypeError(
                    f"runtime_env['env_vars'] must be of type Dict[str, str], but the {part} "
                    f"{found!r} is of type {type(found).__name__}"
                )
        checks.text("runtime_env", key + text)
        if not key or "=" in key or "\0" in key + text:
            raise ValueError(
                f"runtime_env['env_vars'] has {key!r}, which no process can have as an "
                "environment variable"
            )
    return dict(variables)
