"""`init`, `shutdown`, and what a process can ask about its cluster."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cloudray import context
from cloudray.api.runtime_env import env_vars_of

if TYPE_CHECKING:
    from cloudray.driver.session import Session

_log = logging.getLogger("cloudray")
_session: Session | None = None
#: held by whichever thread joins or leaves
_changing = threading.RLock()
#: For tasks that submit tasks.
PUBLIC_CALLS = "cloudray.api.functions"
_AUTO = ("RAY_ENABLE_AUTO_CONNECT", "CLOUDRAY_ENABLE_AUTO_CONNECT")
#: What Ray's `init` takes and has no meaning without a head node.
_ACCEPTED = frozenset(
    {
        "configure_logging",
        "dashboard_host",
        "dashboard_port",
        "include_dashboard",
        "job_config",
        "labels",
        "local_mode",
        "logging_config",
        "logging_format",
        "object_store_memory",
    }
)


class ClusterContext(Mapping[str, Any]):
    """What `init` returns: facts about the cluster, and a context manager that leaves it."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.address_info = facts

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def __repr__(self) -> str:
        return f"ClusterContext({self.address_info})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    namespace: str | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool = True,
    logging_level: int | str = logging.INFO,
    runtime_env: Mapping[str, Any] | None = None,
    **accepted: Any,
) -> ClusterContext:
    """Join the cluster at `address`, or start one on this machine that ends with this process.

    `address` is a URL that agents serve (`file:///shared/folder`); without it, and without the
    environment variable `CLOUDRAY_ADDRESS`, the cluster is embedded. `num_cpus`, `num_gpus`,
    `memory` (bytes) and `resources` say what an embedded cluster offers; by default all CPUs
    and 80 % of the memory. `log_to_driver` prints what tasks print, `logging_level` sets the
    level of the `cloudray` logger. `runtime_env` may have `env_vars`, which all tasks of this
    driver get. Other keywords of `ray.init` are accepted without effect.

    Raises RuntimeError when called twice without `ignore_reinit_error`, ValueError for
    arguments that contradict each other.

    >>> import cloudray
    >>> cloudray.init(ignore_reinit_error=True)["address"].startswith("file://")
    True
    """
    logging.getLogger("cloudray").setLevel(logging_level)
    unknown = accepted.keys() - _ACCEPTED
    if unknown:
        msg = f"init() got unexpected keyword arguments: {', '.join(sorted(unknown))}"
        raise TypeError(msg)
    address = address or os.environ.get("CLOUDRAY_ADDRESS") or None
    if address in ("local", "auto"):
        address = None
    ours: dict[str, Any] = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": memory,
        "resources": resources,
    }
    given = [name for name, value in ours.items() if value is not None]
    if address is not None and given:
        msg = (
            f"When joining the cluster at {address}, {', '.join(given)} cannot be given: its "
            "agents say what they offer."
        )
        raise ValueError(msg)
    env_vars = env_vars_of(runtime_env or {})
    with _changing:
        if context.current() is None:
            context.inherit(env_vars)
            _join(address, ours, namespace or "", log_to_driver=log_to_driver)
        elif not ignore_reinit_error:
            msg = (
                "Maybe you called cloudray.init twice by accident? This error can be suppressed "
                "by passing in 'ignore_reinit_error=True' or by calling 'cloudray.shutdown()' "
                "prior to 'cloudray.init()'."
            )
            raise RuntimeError(msg)
        return _context()


def _join(
    address: str | None, offer: dict[str, Any], namespace: str, *, log_to_driver: bool
) -> None:
    global _session  # noqa: PLW0603 - the one session of a process
    # Joining needs more than a program that only imports this package should load.
    from cloudray.driver.embedded import Offer
    from cloudray.driver.session import Session

    _session = Session(
        address,
        Offer(**offer, preload=(PUBLIC_CALLS,)),
        namespace=namespace,
        log_to_driver=log_to_driver,
    )
    context.register(_session.client)


def _context() -> ClusterContext:
    client = context.client()
    facts = client.identity()
    return ClusterContext(
        {
            "address": facts.get("address", ""),
            "job_id": facts["job_id"],
            "node_id": facts["node_id"],
            "namespace": facts["namespace"],
        }
    )


def shutdown(*, wait_for_processes: bool = False) -> None:
    """Leave the cluster; an embedded one ends. Does nothing when there is none.

    Always waits until the processes of an embedded cluster are gone; `wait_for_processes` is
    accepted for Ray's sake.

    >>> import cloudray
    >>> cloudray.shutdown()
    >>> cloudray.is_initialized()
    False
    """
    del wait_for_processes
    global _session
    with _changing:
        session, _session = _session, None
        if session is not None:
            context.register(None)
            context.inherit({})
            session.close()


def is_initialized() -> bool:
    """Whether this process is in a cluster.

    >>> import cloudray
    >>> cloudray.is_initialized() in (True, False)
    True
    """
    return context.current() is not None


def nodes() -> list[dict[str, Any]]:
    """One dictionary per agent: `NodeID`, `Alive`, `Resources` and so on.

    >>> import cloudray
    >>> cloudray.nodes()[0]["Alive"]
    True
    """
    return context.client().nodes()


def cluster_resources() -> dict[str, float]:
    """What all agents offer together: resource name to amount (memory in bytes).

    >>> import cloudray
    >>> cloudray.cluster_resources()["CPU"] >= 1
    True
    """
    return _sum("Resources")


def available_resources() -> dict[str, float]:
    """What of it was free at the agents' last heartbeats.

    >>> import cloudray
    >>> cloudray.available_resources()["CPU"] >= 0
    True
    """
    return {name: amount for name, amount in _sum("Available").items() if amount > 0}


def _sum(key: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in nodes():
        for name, amount in node[key].items():
            total[name] = total.get(name, 0.0) + amount
    return total


class RuntimeContext:
    """Where the caller is: in which job, on which node, in which task."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

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
        return {"env_vars": dict(env_vars)} if env_vars else {}

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


def _auto_init() -> context.Client:
    for name in _AUTO:
        if os.environ.get(name) == "0":
            msg = f"cloudray is not initialized, and {name}=0: call cloudray.init() first."
            raise RuntimeError(msg)
    with _changing:
        if context.current() is None:
            # Else another thread came first.
            init()
        return context.client()


def _after_fork() -> None:
    """A forked child is no driver of its parent's cluster: it starts afresh when it asks."""
    global _session, _changing  # noqa: PLW0603 - see _join
    _changing = threading.RLock()
    if _session is not None:
        _session = None
        context.register(None)
        context.inherit({})


context.on_first_use(_auto_init)
atexit.register(shutdown)
os.register_at_fork(after_in_child=_after_fork)
