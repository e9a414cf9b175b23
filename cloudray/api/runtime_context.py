"""`get_runtime_context`: where the caller is."""

from __future__ import annotations

from typing import Any

from cloudray import context


class RuntimeContext:
    """Where the caller is: in which job, on which node, in which task."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __repr__(self) -> str:
        shown = ("worker_mode", "job_id", "node_id", "task_name", "task_id", "namespace")
        facts = {name: self._facts.get(name) for name in shown}
        known = ", ".join(f"{name}={value!r}" for name, value in facts.items() if value)
        return f"RuntimeContext({known})"

    def get_job_id(self) -> str:
        """The job, as hexadecimal digits."""
        return str(self._facts["job_id"])

    def get_node_id(self) -> str:
        """The agent that runs the task; empty in a driver."""
        return str(self._facts["node_id"])

    def get_worker_id(self) -> str:
        """The process."""
        return str(self._facts["worker_id"])

    def get_task_id(self) -> str | None:
        """The task, as hexadecimal digits; None in a driver."""
        return self._facts.get("task_id")

    def get_task_name(self) -> str | None:
        """The task's name (the option `name`, else its function's); None in a driver."""
        return self._facts.get("task_name")

    def get_task_function_name(self) -> str | None:
        """The name of the task's function; None in a driver."""
        return self._facts.get("task_function_name")

    def get_attempt_number(self) -> int:
        """How often this machine has begun the task before."""
        return int(self._facts.get("attempt_number", 0))

    def get_assigned_resources(self) -> dict[str, float]:
        """What the task asked for."""
        return dict(self._facts.get("resources", {}))

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment of the running task, or of the driver's job."""
        env_vars = context.inherited()
        wishes = context.job_wishes()
        fields = self._facts.get("runtime_env", {}) if wishes is None else wishes.as_fields()
        return {**({"env_vars": dict(env_vars)} if env_vars else {}), **fields}

    def is_canceled(self) -> bool:
        """Whether somebody cancelled the running task."""
        return bool(self._facts.get("cancelled", False))

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return str(self._facts["namespace"])

    @property
    def gcs_address(self) -> str:
        """The cluster's address: there is no other service."""
        return str(self._facts.get("address", ""))

    @property
    def worker(self) -> str:
        """`driver` or `executor`."""
        return str(self._facts["worker_mode"])


def get_runtime_context() -> RuntimeContext:
    """Facts about the running task, or about the driver.

    >>> import cloudray
    >>> cloudray.get_runtime_context().get_task_id() is None
    True
    """
    return RuntimeContext(context.client().identity())
