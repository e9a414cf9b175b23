"""One mistake, and what whoever makes it is told."""

from __future__ import annotations

import re
from enum import Enum

import msgspec


class Where(Enum):
    """What there is when a mistake is made."""

    #: a cluster, which all of these share
    CLUSTER = "cluster"
    #: no cluster; `folder` is an empty one
    NOWHERE = "nowhere"
    #: a program of its own, which ends with the error
    PROGRAM = "program"


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `docs/errors.md`; a test makes every one of them."""

    #: the heading
    what: str
    #: the program, in which `ray` is imported; its last statement raises
    code: str
    #: the name of the exception's class
    error: str
    #: all of it, where `…` stands for what differs from run to run
    message: str
    #: what to do instead
    instead: str
    #: what happened before; not shown
    given: str = ""
    #: what the page shows instead of `code`, where that is only a way to bring it about
    shown: str = ""
    where: Where = Where.CLUSTER
    #: a task runs, so something is stored before the mistake shows
    stores: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression for the message."""
        return ".*".join(re.escape(part) for part in self.message.split("…"))
