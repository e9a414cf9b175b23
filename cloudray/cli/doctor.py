"""`cloudray doctor`: what may be wrong between this machine and a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cloudray.cli.clusters import Address, choose
from cloudray.cli.errors import FAILED
from cloudray.cli.output import Json, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from cloudray.cli.checkup import Finding

app = typer.Typer(add_completion=False)

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


@app.command()
def doctor(address: Address = None, *, json: Json = False) -> None:
    """Look for what may be wrong: credentials, store, clock, versions, agents.

    Ends with exit code 1 if something does not work.
    """
    from cloudray.cli.checkup import Level, examine

    chosen = choose(address)
    findings: list[Finding] = []
    for finding in examine(chosen):
        findings.append(finding)
        if not json:
            _print(finding)
    failed = any(finding.level is Level.FAILURE for finding in findings)
    if json:
        print_json({"address": chosen.address, "ok": not failed, "findings": findings})
    if failed:
        raise typer.Exit(FAILED)


def _print(finding: Finding) -> None:
    from rich.text import Text

    text = Text.assemble(
        (f"{finding.level:<9}", _STYLES[finding.level]),
        (f"{finding.subject}: ", "bold"),
        finding.found,
    )
    _console().print(text, soft_wrap=True)
    if finding.advice:
        _console().print(Text(f"{'':9}{finding.advice}"), soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)
