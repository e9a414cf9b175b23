"""`cloudray gc`: remove what is left in a bucket that nobody will ever ask for."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from cloudray.cli.clusters import Address, address_of, opened
from cloudray.cli.output import Json, print_json, print_table

app = typer.Typer()


@app.command()
def gc(
    address: Address = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove jobs past their retention, what is left of deleted ones, and other leftovers.

    Safe at any time, beside agents and drivers at work, and as often as you like.
    """
    from cloudray.protocol.endings import Swept
    from cloudray.protocol.gc import collect
    from cloudray.sizes import show_size
    from cloudray.store import drive

    with opened(address_of(address)) as (store, settings):
        found = drive(store, collect(settings, otherwise_s=time.time(), dry_run=dry_run))
    total = sum((one.swept for one in found), Swept())
    if json:
        print_json({"dry_run": dry_run, "found": found, "total": total})
        return
    if found:
        rows = [
            [
                one.what,
                one.of,
                str(one.swept.objects + one.swept.journals),
                show_size(one.swept.size_bytes),
            ]
            for one in found
        ]
        print_table(["what", "of", "objects", "size"], rows, right=(2, 3))
    verb = "would be removed" if dry_run else "removed"
    objects = total.objects + total.journals
    typer.echo(
        f"{objects} object{'' if objects == 1 else 's'} {verb}" if found else "nothing to do"
    )
