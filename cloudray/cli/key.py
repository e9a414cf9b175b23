"""`cloudray key`: make the key of a cluster, and tell keys apart."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudray.cli.errors import MISUSED, CommandError, told
from cloudray.cli.groups import Group

if TYPE_CHECKING:
    from cloudray.keyring import ClusterKey

app = typer.Typer(cls=Group, add_completion=False)


@app.callback()
def _key() -> None:
    """Make the key of a cluster, and tell keys apart.

    With a key, everything that is stored is signed, and what is not is never loaded: without it,
    whoever may write to the bucket can make the machines of the cluster run anything.
    """


@app.command()
def new(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write it to this new file, which only you can read, instead of printing it.",
        ),
    ] = None,
) -> None:
    """Make a new key. A cluster gets it when it is made, and needs it from then on."""
    from cloudray import keyring

    key = keyring.new_key()
    if out is None:
        typer.echo(key.text)
        # The key alone goes to standard output, which may be a file.
        typer.echo(
            f"This is a new key, with the id {key.id}. Every driver and worker of the cluster "
            f"needs it: in the variable {keyring.VARIABLE}, or in a file that "
            f"{keyring.FILE_VARIABLE} names and only its user can read (chmod 600). Nobody can "
            "tell it to you again.",
            err=True,
        )
        return
    with told(MISUSED):
        file = keyring.write_file(out, key)
    typer.echo(
        f"The key {key.id} is in {file}, which only you can read. Copy it to every machine of the "
        f"cluster, and say there:\n"
        f"    export {keyring.FILE_VARIABLE}={shlex.quote(str(file.absolute()))}"
    )


@app.command("id")
def id_(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="The file with the key. Default: the key that the settings name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the id of a key, by which a cluster names the key that it wants. It is no secret."""
    from cloudray import keyring

    with told(MISUSED, ValueError, OSError):
        key = keyring.read_file(file) if file is not None else _configured()
    if key is None:
        raise CommandError(
            f"no key was found: it is looked for in {keyring.PLACES}. `cloudray key new` makes "
            "one.",
            MISUSED,
        )
    typer.echo(key.id)


def _configured() -> ClusterKey | None:
    from cloudray import keyring
    from cloudray.api.sources import resolve

    found = resolve({}, os.environ).configuration
    # Without an address there is no cluster whose key this could be, but it has an id.
    return found.key or keyring.find(os.environ)
