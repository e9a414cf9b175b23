"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

#: The option `--json` of every command that shows something; give it the default False.
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def print_json(found: Any) -> None:
    """Print one JSON document: builtins, msgspec structs, dates."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.flush()


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table; columns whose index is in `right` are numbers, and end in line.

    Texts are printed as they are: brackets in them are no markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        table.add_column(
            name, justify="right" if index in right else "left", overflow="fold", no_wrap=False
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A file or pipe has no edge, and programs that read it want one line per row.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print_text(line.rstrip())


def print_text(text: str) -> None:
    """Print a line as it is."""
    sys.stdout.write(f"{text}\n")


#: Wider (characters) than any row.
_WIDE = 1000
