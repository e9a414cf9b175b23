"""What a command says when it cannot go on: one sentence, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Exit codes: what was asked for failed, or could not be understood.
FAILED, MISUSED = 1, 2


class CommandError(Exception):
    """A command cannot do what it was asked for; the message says why, and what to do."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def told(exit_code: int = FAILED, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds (ValueError and TypeError unless said) into a `CommandError`.

    >>> with told(MISUSED):
    ...     float("two")
    Traceback (most recent call last):
        ...
    cloudray.cli.errors.CommandError: could not convert string to float: 'two'
    """
    caught = kinds or (ValueError, TypeError)
    try:
        yield
    except caught as error:
        raise CommandError(str(error), exit_code) from error


def complain(command: str, message: str) -> None:
    """Say it, behind the name of the command, as programs do."""
    sys.stderr.write(f"{command}: {message}\n")
