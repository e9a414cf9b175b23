"""Groups of commands, which help those who do not know or mistype the name of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cloudray.cli.errors import MISUSED, CommandError


class Group(TyperGroup):
    """A group that shows its help when no command is named, and asks whether another was meant."""

    #: The command of this group that an address alone is likely to mean; empty: none.
    about_clusters = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words behind the group's name."""
        if not args and not ctx.resilient_parsing:
            # With rich it has printed it.
            typer.echo(ctx.get_help())
            raise typer.Exit(MISUSED)
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        known = self.list_commands(ctx)
        if args[0].startswith("-") or args[0] in known:
            return super().resolve_command(ctx, args)
        raise CommandError(
            f"there is no command {args[0]!r}.{self._meant(ctx, args[0], known)} "
            f"`{ctx.command_path} --help` shows all.",
            MISUSED,
        )

    def _meant(self, ctx: Any, word: str, known: Sequence[str]) -> str:
        from cloudray.api.wording import did_you_mean

        if "://" in word and self.about_clusters:
            return f" Did you mean `{ctx.command_path} {self.about_clusters} {word}`?"
        return did_you_mean(word, known)
