"""`cloudray settings`: what holds, and who said so."""

from __future__ import annotations

import typer

from cloudray.cli.errors import MISUSED, told
from cloudray.cli.output import Json, print_json

app = typer.Typer(add_completion=False)


@app.command()
def settings(*, json: Json = False) -> None:
    """Show every setting, and where its value comes from."""
    from cloudray.api.overview import settings as known

    with told(MISUSED):
        found = known()
    if json:
        print_json({name: {"value": found[name], "from": found.source(name)} for name in found})
    else:
        typer.echo(repr(found))
