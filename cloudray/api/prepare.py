"""A function made ready to travel: pickled, named by its content, its demand and class known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudray.api.options import TaskOptions
from cloudray.exceptions import TaskTimeoutError
from cloudray.protocol.buffer import Prepared
from cloudray.protocol.demand import class_of, to_units
from cloudray.protocol.records import Code, Shape
from cloudray.values.inspect import refusal
from cloudray.values.pickling import pickle_whole

#: Ray's limits for a pickled function.
WARN_BYTES = 10 << 20
MAX_BYTES = 100 << 20
_PRIORITY = 5
_NO_CODE = Code()


def pickle_function(function: Callable[..., Any], name: str) -> bytes:
    """Pickle a function; raises ValueError when it is too large, TypeError when it cannot be."""
    try:
        pickled = pickle_whole(function)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's classes may raise anything
        refused = refusal(function, f"the function {name}", error)
        raise refused from refused.__cause__
    size_mib = len(pickled) / (1 << 20)
    if len(pickled) > MAX_BYTES:
        msg = (
            f"The remote function {name} is too large ({size_mib:.0f} MiB > "
            f"FUNCTION_SIZE_ERROR_THRESHOLD={MAX_BYTES >> 20} MiB). Check that its definition is "
            "not implicitly capturing a large array or other object in scope. Tip: use "
            "cloudray.put() to put large objects in the object store."
        )
        raise ValueError(msg)
    if len(pickled) > WARN_BYTES:
        import warnings

        warnings.warn(
            f"The remote function {name} is very large ({size_mib:.0f} MiB). Check that its "
            "definition is not implicitly capturing a large array or other object in scope. "
            "Tip: use cloudray.put() to put large objects in the object store.",
            stacklevel=6,  # who calls `.remote()`
        )
    return pickled


def refuse_unsupported(options: TaskOptions) -> None:
    """Raise ValueError for options that a later version will heed: better now than ignored."""
    if options.label_selector or options.fallback_strategy:
        msg = (
            "'label_selector' and 'fallback_strategy' are not supported yet: agents have no "
            "labels in this version. Give the machines a custom resource instead, and ask for it "
            "with resources={...}."
        )
        raise ValueError(msg)


def prepare(pickled: bytes, name: str, options: TaskOptions, code: Code = _NO_CODE) -> Prepared:
    """What all calls of a function with these options share; `code` is what they ask for."""
    import hashlib

    demand = {
        "CPU": to_units(options.num_cpus),
        "GPU": to_units(options.num_gpus),
        "memory": to_units(options.memory),
        **{key: to_units(amount) for key, amount in options.resources.items()},
    }
    if options.accelerator_type:
        # As in Ray: a sliver of a resource that machines with this model have.
        demand[f"accelerator_type:{options.accelerator_type}"] = to_units(0.001)
    demand = {key: units for key, units in demand.items() if units}
    retryable = options.retry_exceptions
    retry_timeouts = retryable is True
    if not isinstance(retryable, bool):
        import cloudpickle

        # Said apart: the agent, which may have to stop a task by force, unpickles nothing.
        retry_timeouts = issubclass(TaskTimeoutError, retryable)
        retryable = cloudpickle.dumps(retryable)
    max_calls = options.max_calls
    if max_calls is None:
        # Ray's default: a process that used a GPU goes, so that it frees the GPU's memory.
        max_calls = 1 if options.num_gpus else 0
    shape = Shape(
        function=hashlib.sha256(pickled).hexdigest(),
        name=options.name or name,
        num_returns=options.num_returns,
        demand=demand,
        max_retries=options.max_retries,
        retry_exceptions=retryable,
        max_calls=max_calls,
        env_vars=options.env_vars,
        function_name=name,
        timeout_s=options.timeout_s or 0.0,
        retry_timeouts=retry_timeouts and options.timeout_s is not None,
        code=code,
    )
    once = options.max_retries == 0
    return Prepared(shape, class_of(demand), _PRIORITY, once, tuple(sorted(demand.items())))
