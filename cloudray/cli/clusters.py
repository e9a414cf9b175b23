"""Which cluster a command is about, and its store."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cloudray.cli.errors import MISUSED, CommandError, told

if TYPE_CHECKING:
    from cloudray.configuration import Configuration
    from cloudray.protocol.records import Cluster
    from cloudray.store.base import Store

#: A store that does not answer for so long is not waited for.
REACH_S = 5.0

_HELP = (
    "The cluster: a URL such as s3://bucket/prefix or file:///folder, or the name of one in "
    "~/.config/cloudray.toml. Default: CLOUDRAY_ADDRESS, else the address in that file."
)
#: The argument of every command that is about a cluster; give it the default None.
Address = Annotated[str | None, typer.Argument(help=_HELP, show_default=False)]


def choose(given: str | None) -> Configuration:
    """The settings with the cluster that the user means, and its key; they hold from now on.

    Raises `CommandError` when he names no cluster, or one that there is not.
    """
    from cloudray import configuration
    from cloudray.api.sources import resolve

    with told(MISUSED, ValueError, TypeError, OSError):
        resolved = resolve({"address": given}, os.environ)
    if resolved.configuration.address is None:
        raise CommandError(
            "which cluster? Name one, e.g. s3://bucket/prefix or file:///shared/folder, or set "
            "CLOUDRAY_ADDRESS.",
            MISUSED,
        )
    configuration.use(resolved.configuration, resolved.sources)
    return resolved.configuration


def address_of(given: str | None) -> str:
    """The URL of the cluster that the user means; raises what `choose` does."""
    address = choose(given).address
    assert address is not None  # noqa: S101 - `choose` has seen to it
    return address


@contextmanager
def opened(address: str) -> Iterator[tuple[Store, Cluster]]:
    """The store of a cluster that exists, which gives up after `REACH_S`, and its record.

    Reads the record with the key that `choose` (or `address_of`) found, and writes nothing.

    Raises `CommandError` for a wrong address and where there is no cluster, `StoreError` when the
    store cannot be used, `RecordError` for a record that cannot be read.
    """
    from cloudray import configuration
    from cloudray.protocol.joining import look
    from cloudray.store import Reliable, drive, open_cluster

    missing = missing_folder(address)
    if missing:
        # Whoever opens a store there makes it.
        raise CommandError(f"there is no directory {missing}. {how_to_make(address)}")
    key = configuration.current().key
    with told(MISUSED):
        raw = open_cluster(address, key=key)
    store = Reliable(raw, give_up_s=REACH_S)
    try:
        record = drive(store, look(address, key))
        if record is None:
            raise CommandError(f"there is no cluster at {address} yet. {how_to_make(address)}")
        yield store, record
    finally:
        store.close()


def missing_folder(address: str) -> str:
    """The directory that a URL names, if it is not there; empty otherwise."""
    parts = urlsplit(address)
    return parts.path if parts.scheme == "file" and not Path(parts.path).is_dir() else ""


def how_to_make(address: str) -> str:
    """What makes a cluster there."""
    return f'`{start_worker(address)}` or cloudray.init("{address}") makes it.'


def start_worker(address: str) -> str:
    """The command that starts a worker there, for a shell.

    >>> start_worker("s3://bucket/prefix?endpoint=http://host&region=here")
    "cloudray worker 's3://bucket/prefix?endpoint=http://host&region=here'"
    """
    return f"cloudray worker {shlex.quote(address)}"
