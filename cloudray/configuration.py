"""What this process's user has set: `cloudray.api` decides it, the code below only asks.

    if configuration.current().progress: ...

`init` puts arguments, environment and the user's file together and registers the result here, so
that nothing below needs to know where a setting came from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import msgspec

from cloudray.keyring import ClusterKey
from cloudray.timing import Timing

#: How many days a job may stay: lifecycle rules of a bucket know one class of keys for each.
RETENTIONS = (1, 7, 30)


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, checked; a test keeps these fields and the table in step.

    >>> Configuration().traceback
    'short'
    """

    #: URL of the cluster; None starts one that ends with this process
    address: str | None = None
    #: its key; None where it has none, and for one that ends with this process, which makes its own
    key: ClusterKey | None = None
    #: the file that the key was read from; None: none
    key_file: str | None = None
    #: a label of the job
    namespace: str = ""
    #: what the job is called
    job: str = ""
    #: how many days after its start a job and its values stay
    retention_days: int = 7
    #: the CPUs of an embedded cluster; None for all that this process may use
    num_cpus: float | None = None
    #: its GPUs
    num_gpus: float = 0.0
    #: bytes of memory that its tasks may ask for; None for most of the machine's
    memory: int | None = None
    #: quantity of each custom resource that it offers
    resources: Mapping[str, float] = {}
    #: bytes of shared memory for its values; None for a share of what there is
    object_store_memory: int | None = None
    #: where values go that find no room there; None for the temp folder
    object_spilling_directory: str | None = None
    #: whether what tasks print is printed here
    log_to_driver: bool = True
    #: level of the logger `cloudray`, as in `logging`
    logging_level: int = logging.INFO
    #: whether waiting shows progress where somebody looks on, on a terminal or in a notebook
    progress: bool = True
    #: how much of a remote traceback is shown: the user's frames, or CloudRay's too
    traceback: Literal["short", "full"] = "short"
    #: whether lines that many processes print are folded
    dedup_logs: bool = True
    #: whether the first use joins or starts a cluster
    enable_auto_connect: bool = True
    #: environment variables that all tasks of this job get
    env_vars: Mapping[str, str] = {}
    #: a folder, ZIP file or URL that becomes the working directory of all tasks of this job
    working_dir: str | None = None
    #: packages, modules, wheels, ZIP files and URLs that all of them can import
    py_modules: tuple[str, ...] | None = None
    #: patterns of what of these does not go along
    excludes: tuple[str, ...] | None = None
    #: whether local code that has been imported goes along to other machines by itself
    send_code: bool = True
    #: bytes that code may have when it is packed
    max_code_size: int = 100_000_000
    #: times of the protocol in a cluster that this process makes, in seconds; None for the usual
    #: ones at such an address
    heartbeat_s: float | None = None
    lease_s: float | None = None
    commit_s: float | None = None
    scan_s: float | None = None

    def timing(self, usual: Timing) -> Timing:
        """The times of a new cluster, where `usual` says what the user does not.

        >>> from cloudray.timing import EMBEDDED
        >>> Configuration(commit_s=0.5).timing(EMBEDDED).commit_s
        0.5
        """
        chosen = {
            name: value
            for name in Timing.__struct_fields__
            if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(usual, **chosen) if chosen else usual


_DEFAULTS = Configuration()
_current = _DEFAULTS
_sources: Mapping[str, str] | None = None


def current() -> Configuration:
    """What holds in this process: what `init` registered, before it the defaults."""
    return _current


def sources() -> Mapping[str, str] | None:
    """Where each value comes from; None when nothing is registered."""
    return _sources


def use(configuration: Configuration | None, sources: Mapping[str, str] | None = None) -> None:
    """Register what holds from now on, and where it comes from; None puts the defaults back."""
    global _current, _sources  # noqa: PLW0603 - the one configuration is what this module is for
    _current = configuration or _DEFAULTS
    _sources = sources
