"""CloudRay: Ray's programming model with nothing but a bucket in the middle.

>>> import cloudray as ray
>>> @ray.remote
... def square(x):
...     return x * x
>>> ray.get([square.remote(n) for n in range(4)])
[0, 1, 4, 9]
"""

from cloudray import exceptions
from cloudray.api.functions import RemoteFunction, remote
from cloudray.api.objects import cancel, get, put, wait
from cloudray.api.session import (
    ClusterContext,
    RuntimeContext,
    available_resources,
    cluster_resources,
    get_runtime_context,
    init,
    is_initialized,
    nodes,
    shutdown,
)
from cloudray.refs import ObjectRef

__version__ = "0.1.0"

#: Ray's older name.
ObjectID = ObjectRef

__all__ = [
    "ClusterContext",
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
    "get_runtime_context",
    "init",
    "is_initialized",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]
