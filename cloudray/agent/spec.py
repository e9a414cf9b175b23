"""What an agent is told when it is started."""

from __future__ import annotations

import msgspec

from cloudray.timing import Timing


class AgentSpec(msgspec.Struct, frozen=True):
    """What `cloudray worker`, or the driver of an embedded cluster, tells it, as JSON."""

    #: URL of the cluster
    address: str
    #: None: all that this process may use
    num_cpus: float | None = None
    num_gpus: float = 0.0
    #: bytes; None: most of what there is
    memory: float | None = None
    resources: dict[str, float] = {}
    #: what to say of this machine in the heartbeat
    labels: dict[str, str] = {}
    #: how many bytes of values from object storage are kept in memory; None: a tenth of it
    cache_memory: float | None = None
    #: how many more are kept on disk
    cache_disk: float = 10e9
    #: how many bytes of code that tasks brought along are kept unpacked, for all agents of a user
    #: on this machine; more while it is in use
    code_cache: float = 10e9
    #: how long running tasks may take to finish after SIGTERM, in seconds
    drain_timeout_s: float = 30.0
    #: having had nothing to do for so long, in seconds, it leaves by itself; 0: never
    idle_timeout_s: float = 0.0
    #: the name under which it says on standard error what it serves and how that goes; empty for
    #: one that nobody listens to
    speaks_as: str = ""
    #: as in `logging`
    logging_level: str | int = "WARNING"
    #: the times of a cluster that it makes; None: those that are usual at such an address
    timing: Timing | None = None
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
    #: a pipe with the key of the cluster, which is read once; None: it has none. Never the key
    #: itself, because everybody can read a command line
    key_fd: int | None = None

    @property
    def name(self) -> str:
        """What it calls itself when it cannot go on."""
        return self.speaks_as or "cloudray.agent"
