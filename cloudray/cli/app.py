"""All commands, in one place. The module of a command is imported when that command is asked for.

Each module has an `app`, a `typer.Typer`: with one command, it is that command; with several,
a group. What a command raises as `CommandError`, `StoreError` or `RecordError` is told in one
sentence, and so are mistakes on the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main

from cloudray.cli.errors import FAILED, MISUSED, CommandError, complain
from cloudray.cli.groups import Group
from cloudray.version import __version__

_SERVE, _LOOK, _MANAGE = "Serve", "Look", "Manage"

#: Command -> its module, and the panel of `cloudray --help` that shows it, in this order.
COMMANDS: dict[str, tuple[str, str]] = {
    "worker": ("cloudray.cli.worker", _SERVE),
    "status": ("cloudray.cli.status", _LOOK),
    "jobs": ("cloudray.cli.jobs", _LOOK),
    "doctor": ("cloudray.cli.doctor", _LOOK),
    "settings": ("cloudray.cli.settings", _LOOK),
    "key": ("cloudray.cli.key", _MANAGE),
    "gc": ("cloudray.cli.gc", _MANAGE),
}


class _Lazily(Group):
    """A group whose commands are loaded when they are asked for."""

    about_clusters = "status"

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, panel = COMMANDS[cmd_name]
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        command.rich_help_panel = panel  # type: ignore[attr-defined] # as typer's own have it
        return command


app = typer.Typer(
    cls=_Lazily,
    rich_markup_mode="rich",
    epilog="A cluster is a place in storage. Serve it from any number of machines with "
    "[bold]cloudray worker s3://bucket/prefix[/bold], and use it in a program with "
    '[bold]cloudray.init("s3://bucket/prefix")[/bold].',
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _name(given: Sequence[str]) -> str:
    """What the user called, without its options and arguments."""
    names = ["cloudray"]
    if given and given[0] in COMMANDS:
        names.append(given[0])
        command = typer.main.get_command(import_module(COMMANDS[given[0]][0]).app)
        if len(given) > 1 and given[1] in getattr(command, "commands", ()):
            names.append(given[1])
    return " ".join(names)


def _mistake(error: Any) -> str:
    """One sentence about a mistake on the command line, of the kinds that typer knows."""
    wrong: str | None = getattr(error, "option_name", None)
    nearby: Sequence[str] | None = getattr(error, "possibilities", None)
    if wrong is not None and "No such option" in error.message:
        question = f" Did you mean {' or '.join(nearby)}?" if nearby else ""
        return f"there is no option {wrong}.{question}"
    usage = "" if error.ctx is None else f" {error.ctx.command.get_usage(error.ctx)}"
    return f"{str(error.format_message()).rstrip('.')}.{usage}"


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        print(f"cloudray {__version__}")  # noqa: T201 - a command talks to a terminal
        raise typer.Exit


@app.callback()
def _cloudray(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Ray's programming model with nothing but a bucket in the middle."""
    # The option's callback has done it.
    del version


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (the process's own unless given); returns the exit code."""
    from cloudray.store import RecordError, StoreError

    group = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = group.main(given, prog_name="cloudray", standalone_mode=False)
    except CommandError as error:
        complain(_name(given), str(error))
        return error.exit_code
    except (StoreError, RecordError) as error:
        complain(_name(given), str(error))
        return FAILED
    except BrokenPipeError:
        # Whoever read has enough; Python's own complaint at the end would tell nobody anything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        complain(_name(given), _mistake(error))
        return MISUSED
    return code if isinstance(code, int) else 0
