"""The command line: `cloudray worker`, `status`, `doctor` and their kin."""

from __future__ import annotations


def main() -> int:
    """Run the command that the command line names; returns the exit code."""
    from cloudray.cli.app import run  # typer and rich are loaded when there is a command line

    return run()
