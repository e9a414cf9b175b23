"""`init`, `shutdown`, and what a process can ask about its cluster."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from cloudray import configuration, context, departed, platform
from cloudray.api.interrupts import Ending, die_of_it
from cloudray.api.tracebacks import shorten

if TYPE_CHECKING:
    from cloudray.api.sources import Resolved
    from cloudray.driver.session import Session

_log = logging.getLogger("cloudray")
_session: Session | None = None
#: held by whichever thread joins or leaves
_changing = threading.RLock()
_TWICE = (
    "Maybe you called cloudray.init twice by accident? This error can be suppressed by passing in "
    "'ignore_reinit_error=True' or by calling 'cloudray.shutdown()' prior to 'cloudray.init()'."
)
_TWICE_IN_A_TASK = (
    "Maybe you called cloudray.init twice by accident? A task is in its driver's cluster already: "
    "leave the call out, or pass in 'ignore_reinit_error=True'."
)
#: For tasks that submit tasks.
PUBLIC_CALLS = "cloudray.api.functions"


class AcceptedArguments(TypedDict, total=False):
    """What Ray's `init` takes beside our settings.

    Two are settings under another name; the others have no meaning without a head node.
    """

    cgroup_path: str | None
    configure_logging: bool
    dashboard_host: str
    dashboard_port: int | None
    enable_resource_isolation: bool
    include_dashboard: bool | None
    job_config: Any
    labels: dict[str, str] | None
    local_mode: bool
    logging_config: Any
    logging_format: str | None
    proxy_server_url: str | None
    system_reserved_cpu: float | None
    system_reserved_memory: int | None
    _driver_object_store_memory: int | None
    _enable_object_reconstruction: bool
    _memory: float | None
    _metrics_export_port: int | None
    _node_ip_address: str
    _node_name: str | None
    _object_spilling_directory: str | None
    _plasma_directory: str | None
    _redis_password: str
    _redis_username: str
    _system_config: dict[str, Any] | None
    _temp_dir: str | None
    _tracing_startup_hook: Any


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
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        _leave(telling=True, interrupted=interrupted)

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.address_info.items())
        return f"ClusterContext({facts})"

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        import html  # with its table of entities

        rows = "".join(
            f"<tr><th style='text-align: left'>{html.escape(name.replace('_', ' '))}</th>"
            f"<td style='text-align: left'><code>{html.escape(str(value))}</code></td></tr>"
            for name, value in self.address_info.items()
            if value
        )
        return f"<table>{rows}</table>"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | str | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: float | str | None = None,
    object_spilling_directory: str | os.PathLike[str] | None = None,
    namespace: str | None = None,
    job: str | None = None,
    retention_days: float | None = None,
    key: str | None = None,
    key_file: str | os.PathLike[str] | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool | None = None,
    logging_level: int | str | None = None,
    progress: bool | None = None,
    traceback: Literal["short", "full"] | None = None,
    dedup_logs: bool | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    **accepted: Unpack[AcceptedArguments],
) -> ClusterContext:
    """Join the cluster at `address`, or start one on this machine that ends with this process.

    `address` is a URL that agents serve (`file:///shared/folder`), or the name of a cluster in
    the user's file; `"local"` always starts one. `num_cpus`, `num_gpus`, `memory` and `resources`
    say what an embedded cluster offers; by default all CPUs and 80 % of the memory. `job` is what
    this driver's job is called, by which `cloudray.get_job` finds it; it ends `retention_days`
    (1, 7 or 30) from now, and all it stored goes. Sizes are numbers of bytes or texts such as
    `"2 GB"`. `key`, or a `key_file` with it, is the key of a cluster whose records are signed.
    `runtime_env` says what all tasks of this driver get: `env_vars`, and code that travels with
    them (`working_dir`, `py_modules`, `excludes`).

    What is not given, or None, comes from the environment (`CLOUDRAY_NUM_CPUS=4`), else from
    `~/.config/cloudray.toml`, else it is a default: `docs/settings.md` lists all settings, and
    `cloudray.settings()` shows them. Other keywords of `ray.init` are accepted without effect.

    Raises RuntimeError when called twice without `ignore_reinit_error` and for an unknown
    keyword, TypeError for a value of a wrong type, ValueError for one that is not allowed and for
    arguments that contradict each other.

    >>> import cloudray
    >>> cloudray.init(ignore_reinit_error=True)["address"].startswith("file://")
    True
    """
    try:
        # Executors import this module too, and need no settings.
        from cloudray.api import sources

        arguments: dict[str, Any] = {
            "address": address,
            "namespace": namespace,
            "job": job,
            "retention_days": retention_days,
            "key": key,
            "key_file": key_file,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory": memory,
            "resources": resources,
            "object_store_memory": object_store_memory,
            "object_spilling_directory": object_spilling_directory,
            "log_to_driver": log_to_driver,
            "logging_level": logging_level,
            "progress": progress,
            "traceback": traceback,
            "dedup_logs": dedup_logs,
            "runtime_env": runtime_env,
        }
        sources.take_in(arguments, accepted, AcceptedArguments.__annotations__)
        sources.check_arguments(arguments)
        with _changing:
            if context.current() is None:
                _join(sources.resolve(arguments, os.environ))
            elif not ignore_reinit_error:
                msg = _TWICE if _session is not None else _TWICE_IN_A_TASK
                raise RuntimeError(msg)  # noqa: TRY301 - it leaves as every error does here
            return _context()
    except BaseException as error:
        shorten(error)
        raise


def _join(resolved: Resolved) -> None:
    global _session  # noqa: PLW0603 - the one session of a process
    # Joining needs more than a program that only imports this package should load.
    from cloudray.code.wishes import Wishes
    from cloudray.driver.embedded import Offer
    from cloudray.driver.session import Session
    from cloudray.exceptions import RaySystemError
    from cloudray.interrupts import Shield
    from cloudray.store import RecordError, StoreError

    chosen = resolved.configuration
    logging.getLogger("cloudray").setLevel(chosen.logging_level)
    configuration.use(chosen, resolved.sources)
    context.inherit(chosen.env_vars)
    context.wish(Wishes(chosen.working_dir, chosen.py_modules, chosen.excludes))
    with Shield():
        try:
            _session = Session(
                chosen.address,
                Offer(
                    num_cpus=chosen.num_cpus,
                    num_gpus=chosen.num_gpus,
                    memory=chosen.memory,
                    resources=chosen.resources,
                    object_store_memory=chosen.object_store_memory,
                    spill_directory=chosen.object_spilling_directory,
                    preload=(PUBLIC_CALLS,),
                ),
                namespace=chosen.namespace,
                log_to_driver=chosen.log_to_driver,
            )
            context.register(_session.client)
            _ending.arm()
            with Shield.lifted():
                # A Ctrl-C that came meanwhile means that nobody wants it any more.
                _session.introduce()
        except (OSError, StoreError, RecordError) as error:
            _leave()
            # What the store says is all there is to know.
            cause = error if isinstance(error, OSError) else None
            if chosen.address is None:
                msg = f"No cluster could be started here: {error}"
                raise RaySystemError(message=msg) from cause
            which = ", whose record cannot be read" * isinstance(error, RecordError)
            msg = f"Could not join the cluster at {chosen.address}{which}: {error}"
            raise ConnectionError(msg) from cause
        except BaseException:
            _leave()
            raise


def joined() -> Session | None:
    """The membership of this driver in a cluster, if any."""
    return _session


def _forget() -> None:
    """Nothing that `init` said holds any more."""
    context.inherit({})
    context.wish(None)
    configuration.use(None)


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
    try:
        _leave()
    except BaseException as error:
        shorten(error)
        raise


def _leave(*, telling: bool = False, interrupted: bool = False) -> None:
    """Leave the cluster, if this process is in one; see `Session.close`."""
    global _session  # noqa: PLW0603 - see _join
    with _changing:
        session = _session
        if session is None:
            _forget()
            return
        # Loaded together with the session.
        from cloudray.interrupts import Shield

        with Shield():
            _session = None
            if session.cluster is not None:
                departed.leave(session.client.job.id, departed.SHUT_DOWN)
            context.register(None)
            _ending.disarm()
            try:
                session.close(telling=telling, interrupted=interrupted)
            finally:
                _ending.cut_short = session.cut_short
                _forget()


def _end_interrupted() -> None:
    """An uncaught Ctrl-C ends this process. Another one ends it sooner."""
    try:  # at once: every line before it is one where Ctrl-C would get through
        _leave(telling=True, interrupted=True)
    except KeyboardInterrupt:
        return


def _end() -> None:
    """The process ends: say what that stops."""
    try:  # as above
        _leave(telling=True)
    except KeyboardInterrupt:
        # For whoever would take work that may be missing for submitted.
        if _ending.cut_short:
            die_of_it()


_ending = Ending(_end_interrupted)


def is_initialized() -> bool:
    """Whether this process is in a cluster.

    >>> import cloudray
    >>> cloudray.is_initialized() in (True, False)
    True
    """
    return context.current() is not None


def _auto_init() -> context.Client:
    if _ending.came:
        from cloudray.exceptions import RaySystemError

        msg = "this program was interrupted: it ends, and uses no cluster any more."
        raise RaySystemError(msg)
    with _changing:
        if context.current() is None:
            # Else another thread came first.
            from cloudray.api import sources

            resolved = sources.resolve({}, os.environ)
            why_not = sources.why_not_by_itself(resolved, os.environ)
            if why_not is not None:
                msg = f"cloudray is not initialized, and {why_not}: call cloudray.init() first."
                raise RuntimeError(msg)
            _join(resolved)
        return context.client()


def _after_fork() -> None:
    """A forked child is no driver of its parent's cluster: it starts afresh when it asks."""
    global _session, _changing  # noqa: PLW0603 - see _join
    _changing = threading.RLock()
    if _session is not None:
        if _session.cluster is not None:
            departed.leave(_session.client.job.id, departed.FORKED)
        _session.forget()
        _session = None
        context.register(None)
        _forget()


context.on_first_use(_auto_init)
atexit.register(_end)
platform.on_fork(_after_fork)
