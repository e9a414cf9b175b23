"""What an agent is told when it is started."""

from __future__ import annotations

import msgspec


class AgentSpec(msgspec.Struct, frozen=True):
    """The command line of an agent; embedded clusters pass it as JSON."""

    #: URL of the cluster
    address: str
    #: None: all that this process may use
    num_cpus: float | None = None
    num_gpus: float = 0.0
    #: bytes; None: most of what there is
    memory: float | None = None
    resources: dict[str, float] = {}
    #: how many bytes of values from object storage are kept in memory; None: a tenth of it
    cache_memory: float | None = None
    #: how many more are kept on disk
    cache_disk: float = 10e9
    #: how long running tasks may take to finish after SIGTERM, in seconds
    drain_timeout_s: float = 30.0
    logging_level: str = "WARNING"
    #: agents whose end was seen by who starts this one: nobody need wait out their leases
    dead: tuple[str, ...] = ()
    #: modules that executors should find loaded
    preload: tuple[str, ...] = ()
    #: a listening Unix socket that the agent inherits; None: it makes its own
    listen_fd: int | None = None
    #: a pipe whose other end is the driver's; its end is the agent's
    lifeline_fd: int | None = None
    #: an embedded cluster's folders, the first of them in memory: they go with it
    folders: tuple[str, ...] = ()
