"""The two sides of a doorbell: whoever submits rings, and agents that have room listen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from cloudray.bells.hints import Hint


def _no_matter(*, taken: bool) -> None:
    """What is done with a hint that nobody keeps: nothing."""
    del taken


class Heard(msgspec.Struct, frozen=True):
    """A hint as it was heard."""

    hint: Hint
    #: the batch as a sealed record, when the bell brought it along; else empty
    body: bytes = b""
    #: to be called when it is known whether the hint is of no more use to anybody (`taken`), or
    #: should be heard by another agent
    settle: Callable[..., None] = _no_matter


class Doorbell(ABC):
    """Rings. Its methods are called on one event loop, and raise nothing: a ring may be lost."""

    async def announce(self, hint: Hint, body: Callable[[], bytes]) -> None:  # noqa: B027
        """A batch is about to be put; `body` makes its record. May run beside the put."""

    async def flush(self) -> None:  # noqa: B027 - most keep nothing back
        """Wait until what was rung has been said."""

    @abstractmethod
    async def ring(self, hints: Sequence[Hint]) -> None:
        """Batches are in the queue: say so, soon and not too often."""

    async def close(self) -> None:  # noqa: B027 - some hold nothing open
        """Release connections. Idempotent."""


class Silent(Doorbell):
    """No bell: nobody listens, or everybody hears otherwise."""

    async def ring(self, hints: Sequence[Hint]) -> None:
        """Do nothing."""


class Ear(ABC):
    """Listens. All is called on one event loop."""

    #: how many agents listen beside each other, this one included
    agents: int = 1
    #: whether all of them hear each ring, not one of them
    shared: bool = True

    async def begin(self) -> None:  # noqa: B027 - some have nothing to know
        """Take in what was rung before, which the scan that follows finds in the queue."""

    @abstractmethod
    async def hear(self, room: int) -> list[Heard] | None:
        """Wait for a ring, at most for a while; None when there was none.

        The agent has room for about so many batches. A ring may bring nothing that is new (an
        empty list). Raises nothing but what cancels it: what cannot be reached rings no bell.
        """

    def worked(self) -> None:  # noqa: B027 - some wait no longer when there is no work
        """The agent had work, so there may soon be more."""

    async def close(self) -> None:  # noqa: B027 - some hold nothing open
        """Release connections. Idempotent."""
