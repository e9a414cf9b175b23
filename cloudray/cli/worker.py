"""`cloudray worker`: serve a cluster from this machine."""

from __future__ import annotations

import math
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cloudray.cli.clusters import Address, choose
from cloudray.cli.errors import FAILED, MISUSED, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudray.agent.spec import AgentSpec
    from cloudray.keyring import ClusterKey

app = typer.Typer(add_completion=False)

_SERVE, _LEAVE, _CACHE = "What it offers", "When it leaves", "Caches and messages"
#: For tasks that submit tasks: executors find it loaded.
_PUBLIC_CALLS = "cloudray.api.functions"


def _offer(help_: str, metavar: str) -> Any:
    return typer.Option(help=help_, metavar=metavar, show_default=False, rich_help_panel=_SERVE)


def _leave(help_: str) -> Any:
    return typer.Option(help=help_, metavar="SECONDS", rich_help_panel=_LEAVE)


def _cache(help_: str, metavar: str, *, show_default: bool = True) -> Any:
    return typer.Option(
        help=help_, metavar=metavar, show_default=show_default, rich_help_panel=_CACHE
    )


@app.command(
    epilog="SIGTERM or Ctrl-C drains: nothing new is taken, what has not started is given back, "
    "and what runs may finish. A second one stops at once. When the store is away, the worker "
    "waits for it, however long that takes."
)
def worker(
    address: Address = None,
    *,
    num_cpus: Annotated[
        str | None, _offer("CPUs for tasks; by default all that there are.", "NUMBER")
    ] = None,
    num_gpus: Annotated[str, _offer("GPUs for tasks; by default none.", "NUMBER")] = "0",
    memory: Annotated[
        str | None,
        _offer("Memory that tasks may ask for, e.g. '2 GB'; by default 80 % of all.", "SIZE"),
    ] = None,
    resources: Annotated[
        str,
        _offer("Custom resources: 'tag=2,licence=1', or JSON such as '{\"tag\": 2}'.", "TABLE"),
    ] = "",
    labels: Annotated[
        str, _offer("What to say of this machine: 'zone=a,kind=spot', or JSON.", "TABLE")
    ] = "",
    idle_timeout: Annotated[
        str, _leave("Leave after having had nothing to do for so long; 0: never.")
    ] = "0",
    drain_timeout: Annotated[
        str, _leave("How long running tasks may take to finish when it is told to leave.")
    ] = "30",
    cache_memory: Annotated[
        str | None,
        _cache(
            "How much of memory to use for values from object storage; by default 10 % of it.",
            "SIZE",
            show_default=False,
        ),
    ] = None,
    cache_disk: Annotated[str, _cache("How much of the disk to use for more of them.", "SIZE")] = (
        "10 GB"
    ),
    code_cache: Annotated[
        str,
        _cache("How much of the disk to use for code that tasks bring along.", "SIZE"),
    ] = "10 GB",
    logging_level: Annotated[
        str, _cache("What its log tells, on standard error: a level of Python's logging.", "LEVEL")
    ] = "WARNING",
) -> None:
    """Serve a cluster from this machine: take tasks from it and run them, until told to stop."""
    from cloudray import platform
    from cloudray.agent.spec import AgentSpec
    from cloudray.api import checks, settings
    from cloudray.timing import timing_for

    if not platform.capabilities.unix:
        raise CommandError(
            "a worker needs Linux, macOS or WSL: install WSL (`wsl --install`) and start it there.",
            FAILED,
        )
    chosen = choose(address)
    assert chosen.address is not None  # noqa: S101 - `choose` has seen to it
    spec = AgentSpec(
        address=chosen.address,
        num_cpus=_checked(
            "--num-cpus", num_cpus, lambda text: checks.quantity("CPU", _float(text))
        ),
        num_gpus=_checked("--num-gpus", num_gpus, lambda text: checks.gpus("GPU", _float(text))),
        memory=_checked("--memory", memory, _bytes),
        resources=_checked("--resources", resources, _resources),
        labels=_checked("--labels", labels, _labels),
        idle_timeout_s=_checked("--idle-timeout", idle_timeout, _seconds),
        drain_timeout_s=_checked("--drain-timeout", drain_timeout, _seconds),
        cache_memory=_checked("--cache-memory", cache_memory, _bytes),
        cache_disk=_checked("--cache-disk", cache_disk, _bytes),
        code_cache=_checked("--code-cache", code_cache, _bytes),
        logging_level=_checked(
            "--logging-level", logging_level, lambda text: settings.level("level", text)
        ),
        timing=chosen.timing(timing_for(chosen.address)),
        speaks_as="cloudray worker",
        preload=(_PUBLIC_CALLS,),
    )
    become_agent(spec, chosen.key)


def become_agent(spec: AgentSpec, key: ClusterKey | None) -> NoReturn:
    """Make this process the agent: it begins anew, and has loaded nothing of what is loaded here.

    So a worker is as small as the agent of an embedded cluster, and forks its executors as early.
    """
    import msgspec

    from cloudray.keyring import pipe_of, without

    environment = without(os.environ)
    if key is not None:
        descriptor = pipe_of(key)
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only way
        spec = msgspec.structs.replace(spec, key_fd=descriptor)
    ours = str(Path(__file__).parents[2])
    if ours not in sysconfig.get_paths().values():
        # It runs from a folder of its sources, which only this process knows of.
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{ours}{os.pathsep}{known}" if known else ours
    # -P: files in the working directory must not hide modules that the agent needs.
    command = [sys.executable, "-P", "-m", "cloudray.agent", "--spec"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 - no shell
        sys.executable, [*command, msgspec.json.encode(spec).decode()], environment
    )


def _checked(option: str, given: str | None, check: Callable[[str], Any]) -> Any:
    """What to keep for an option; None for one that was not given."""
    if given is None:
        return None
    try:
        return check(given)
    except (ValueError, TypeError) as error:
        raise CommandError(f"{option} {given}: {error}", MISUSED) from error


def _bytes(text: str) -> int:
    from cloudray.api import checks
    from cloudray.sizes import parse_size

    return checks.memory("memory", parse_size(text))


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it is no number.") from None


def _seconds(text: str) -> float:
    value = _float(text)
    if not 0 <= value < math.inf:
        raise ValueError("it is a number of seconds, 0 or more.")
    return value


def _resources(text: str) -> dict[str, float]:
    from cloudray.api import checks

    table = {name: _number(name, amount) for name, amount in _table(text).items()}
    return checks.resources("resources", table)


def _number(name: str, amount: Any) -> float:
    if isinstance(amount, bool):
        raise ValueError(f"the quantity of {name} must be a number.")  # noqa: TRY004 - the user's
    try:
        return float(amount)
    except (TypeError, ValueError):
        raise ValueError(f"the quantity of {name} must be a number, not {amount!r}.") from None


def _labels(text: str) -> dict[str, str]:
    from cloudray.api import checks

    return checks.node_labels("labels", _table(text))


def _table(text: str) -> dict[str, Any]:
    """A table in JSON, or as `name=value,name=value`."""
    if not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        import json

        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is no JSON ({error}).") from None
        return found
    table: dict[str, Any] = {}
    for pair in text.split(","):
        name, sign, value = (part.strip() for part in pair.partition("="))
        if not sign or not name:
            raise ValueError(
                "write it as 'name=value,name=value', or as JSON such as '{\"name\": \"value\"}'."
            )
        if name in table:
            raise ValueError(f"{name} stands there twice.")
        table[name] = value
    return table
