"""CloudRay: Ray's programming model with nothing but a bucket in the middle.

>>> import cloudray as ray
>>> @ray.remote
... def square(x):
...     return x * x
>>> ray.get([square.remote(n) for n in range(4)])
[0, 1, 4, 9]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloudray.version import __version__

if TYPE_CHECKING:
    from cloudray import exceptions
    from cloudray.api.cluster import available_resources, cluster_resources, nodes
    from cloudray.api.functions import RemoteFunction, remote
    from cloudray.api.jobs import Job, get_job, jobs, ref
    from cloudray.api.objects import cancel, get, put, wait
    from cloudray.api.overview import settings
    from cloudray.api.runtime_context import RuntimeContext, get_runtime_context
    from cloudray.api.session import ClusterContext, init, is_initialized, shutdown
    from cloudray.refs import ObjectRef
    from cloudray.refs import ObjectRef as ObjectID  # Ray's older name

__all__ = [
    "ClusterContext",
    "Job",
    "ObjectID",
    "ObjectRef",
    "RemoteFunction",
    "RuntimeContext",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_job",
    "get_runtime_context",
    "init",
    "is_initialized",
    "jobs",
    "nodes",
    "put",
    "ref",
    "remote",
    "settings",
    "shutdown",
    "wait",
]

#: Where each public name lives. Loaded when first asked for, so that agents and executors, which
#: import this package too, start without what only drivers need.
_HOMES = {
    "RemoteFunction": "cloudray.api.functions",
    "remote": "cloudray.api.functions",
    "Job": "cloudray.api.jobs",
    "get_job": "cloudray.api.jobs",
    "jobs": "cloudray.api.jobs",
    "ref": "cloudray.api.jobs",
    "cancel": "cloudray.api.objects",
    "get": "cloudray.api.objects",
    "put": "cloudray.api.objects",
    "wait": "cloudray.api.objects",
    "settings": "cloudray.api.overview",
    "ClusterContext": "cloudray.api.session",
    "RuntimeContext": "cloudray.api.runtime_context",
    "available_resources": "cloudray.api.cluster",
    "cluster_resources": "cloudray.api.cluster",
    "get_runtime_context": "cloudray.api.runtime_context",
    "init": "cloudray.api.session",
    "is_initialized": "cloudray.api.session",
    "nodes": "cloudray.api.cluster",
    "shutdown": "cloudray.api.session",
    "ObjectRef": "cloudray.refs",
    "ObjectID": "cloudray.refs",
}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name == "exceptions":
        return import_module("cloudray.exceptions")
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        module = import_module(home)
    except KeyboardInterrupt as error:
        # Where in the importing Ctrl-C came tells nobody anything.
        error.__traceback__ = None
        raise
    value = getattr(module, "ObjectRef" if name == "ObjectID" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
