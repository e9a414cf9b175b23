"""What a worker process needs before it runs a task: the `runtime_env` option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudray.api import checks
from cloudray.code.wishes import Wishes, excludes_of, py_modules_of, working_dir_of

#: Fields of a runtime environment that do something.
SUPPORTED_FIELDS = ("env_vars", "excludes", "py_modules", "working_dir")
#: Those by which Ray installs packages, for every task anew.
INSTALLING_FIELDS = ("conda", "pip", "uv")
#: Fields that Ray has beside those.
OTHER_FIELDS = (
    "config",
    "container",
    "image_uri",
    "java_jars",
    "mpi",
    "nsight",
    "py_executable",
    "rocprof_sys",
    "worker_process_setup_hook",
)
_INSTEAD = (
    "Install the packages where the workers run (in their image, or with pip before "
    "`cloudray worker`), or send wheels along: runtime_env={'py_modules': ['name.whl']}."
)


def check_fields(value: Mapping[str, Any]) -> None:
    """Raise ValueError for a field that is not supported or unknown.

    >>> check_fields({"pip": ["tea"]})
    Traceback (most recent call last):
    ValueError: runtime_env['pip'] is not supported. Install the packages where the workers run ...
    """
    for field in value:
        if field in SUPPORTED_FIELDS:
            continue
        if field in INSTALLING_FIELDS:
            raise ValueError(f"runtime_env[{field!r}] is not supported. {_INSTEAD}")
        if field in OTHER_FIELDS:
            raise ValueError(
                f"runtime_env[{field!r}] is not supported yet. "
                f"Supported fields are {list(SUPPORTED_FIELDS)}."
            )
        raise ValueError(
            f"runtime_env has no field {field!r}. Supported fields are {list(SUPPORTED_FIELDS)}."
        )


def wishes_of(value: Mapping[str, Any]) -> Wishes:
    """The code that a runtime environment asks for.

    Raises ValueError for a field that is not supported or unknown, and for a folder or file that
    is not there; TypeError for values of a wrong type.
    """
    check_fields(value)
    working_dir, py_modules, excludes = map(value.get, ("working_dir", "py_modules", "excludes"))
    return Wishes(
        None if working_dir is None else working_dir_of(working_dir),
        None if py_modules is None else py_modules_of(py_modules),
        None if excludes is None else excludes_of(excludes),
    )


def env_vars_of(value: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a runtime environment.

    Raises ValueError for a field that is not supported or unknown, and TypeError for
    `env_vars` that are not strings.

    >>> env_vars_of({"env_vars": {"LEVEL": "3"}})
    {'LEVEL': '3'}
    """
    check_fields(value)
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
