"""Which hints an agent goes for at once, where many agents hear the same ring."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

#: So many agents, about, go for each batch that a bell names. The others leave it to them, and read
#: a little later whether somebody holds it: a read costs a twelfth of a claim that is lost.
KEEN = 3
#: How much later, in seconds; and of so many batches at most.
PATIENCE_S = 0.5
MAX_ASIDE = 3
#: A ring of which so many claims were lost is worth no more of them: a scan shows what is left.
MAX_LOSSES = 2
_DIGEST_BYTES = 4


class Ring(msgspec.Struct):
    """The hints that a bell brought at one time, and what has come of them."""

    #: claims that others had won
    lost: int = 0
    #: whether one of them brought work, or it is known that they are stale
    over: bool = False

    def settle(self, *, fruitful: bool) -> bool:
        """It is known what came of one hint; returns whether the rest turns out to be stale."""
        if self.over:
            return False
        self.over = fruitful or self.lost >= MAX_LOSSES
        return self.over and not fruitful


def is_keen(batch: bytes, agent: str, agents: int) -> bool:
    """Whether this agent, one of so many, is among those that go for a batch at once.

    Nobody need agree on it: it only says how many try, on average.

    >>> is_keen(b"batch", "agent", 3)
    True
    >>> 0 < sum(is_keen(b"batch", f"agent {number}", 1000) for number in range(1000)) < 10
    True
    """
    if agents <= KEEN:
        return True
    digest = blake2b(batch + agent.encode(), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big") * agents < KEEN << (8 * _DIGEST_BYTES)
