"""The mistakes as a page of the documentation."""

from __future__ import annotations

import re

from tests.mistakes import MISTAKES, Mistake

_BEFORE = """\
# Errors

What is refused, and what to do instead. Here `ray` is `import cloudray as ray`, and `…` stands for
what differs from run to run. What is wrong with an argument shows where it is given: nothing has
been stored then, and the cluster can be used as before.

This page is generated from the table in `tests/mistakes`; a test makes every mistake in it, and
compares the error.
"""


def markdown() -> str:
    """`errors.md`."""
    return "".join([_BEFORE, *(_part(title, rows) for title, rows in MISTAKES.items())])


def _part(title: str, rows: tuple[Mistake, ...]) -> str:
    lines = [
        f"\n## {title}\n",
        "| mistake | program | error | what to do |",
        "|---|---|---|---|",
    ]
    for row in rows:
        error = f"`{row.error}`<br>{_code(row.message)}"
        cells = [row.what, _code(row.shown or row.code), error, row.instead]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Several lines of code in one cell."""
    return "<br>".join(_line(line) for line in text.split("\n") if line)


def _line(line: str) -> str:
    # A cell shows one line, whose indentation is kept by spaces that do not break.
    bare = line.lstrip(" ")
    text = "\u00a0" * (len(line) - len(bare)) + bare.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " * (longest > 0)
    return f"{fence}{space}{text}{space}{fence}"
